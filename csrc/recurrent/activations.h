// The logistic function and tanh, on the host and on the device. On the host they are a polynomial
// that compilers vectorize, which calls of the C library are not; within 2 units in the last place
// of float, 4 of double. Small arguments keep their relative accuracy; a NaN stays a NaN.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "common/stabilizer.h"

// A loop is vectorized only if everything in it is inlined, and compilers stop at some size.
#define XAI_ALWAYS_INLINE __attribute__((always_inline)) inline

namespace xaifast {

// exp(x) - 1 = 2^n p + (2^n - 1), p = exp(r) - 1, x = n ln 2 + r, |r| <= ln 2 / 2. Adding kRound
// rounds to an integer and leaves it in the low bits.
XAI_ALWAYS_INLINE double exp_minus_one(double x) {
  constexpr double kRound = 0x1.8p52;
  x = x < -700.0 ? -700.0 : x;
  x = x > 700.0 ? 700.0 : x;
  const double shifted = x * 1.4426950408889634 + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * 0x1.62e42fefap-1) - n * 0x1.cf79abc9e3b39p-40;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r * r + r;
  const double scale = std::bit_cast<double>((std::bit_cast<std::uint64_t>(shifted) + 1023) << 52);
  return scale * p + (scale - 1.0);
}

XAI_ALWAYS_INLINE float exp_minus_one(float x) {
  constexpr float kRound = 0x1.8p23f;
  x = x < -80.0f ? -80.0f : x;
  x = x > 80.0f ? 80.0f : x;
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r * r + r;
  const float scale = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) + 127) << 23);
  return scale * p + (scale - 1.0f);
}

template <class C>
XAI_HOST_DEVICE XAI_ALWAYS_INLINE C sigm(C x) {
#ifdef __CUDA_ARCH__
  return C(1) / (C(1) + exp(-x));
#else
  return C(1) / (C(2) + exp_minus_one(-x));
#endif
}

template <class C>
XAI_HOST_DEVICE XAI_ALWAYS_INLINE C tanh_of(C x) {
#ifdef __CUDA_ARCH__
  return tanh(x);
#else
  const C e = exp_minus_one(C(2) * x);
  return e / (e + C(2));
#endif
}

}  // namespace xaifast
