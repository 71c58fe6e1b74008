// Arithmetic that is rounded after each step, on the host and on the device: a compiler that fused
// a product and a sum into one instruction would give other numbers on other machines. The host is
// compiled with -ffp-contract=off; on the device these are intrinsics that nvcc never fuses. A sum
// of what they return needs no intrinsic.
#pragma once

#include <cmath>

#include "common/stabilizer.h"

namespace xaifast {

template <class C>
XAI_HOST_DEVICE inline C rounded_product(C a, C b) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(C) == sizeof(double)) {
    return __dmul_rn(a, b);
  } else {
    return __fmul_rn(a, b);
  }
#else
  return a * b;
#endif
}

XAI_HOST_DEVICE inline float rounded_quotient(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

XAI_HOST_DEVICE inline float rounded_root(float a) {
#ifdef __CUDA_ARCH__
  return __fsqrt_rn(a);
#else
  return std::sqrt(a);
#endif
}

}  // namespace xaifast
