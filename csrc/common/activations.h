// The logistic function and tanh, on the host and on the device. A CUDA thread calls those of its
// library. On the host they have no branches or tables, so that a loop over them becomes vector
// instructions, which calls of the C library do not; plain arithmetic that is not contracted gives
// equal numbers on every instruction set.
//   e^x - 1 = 2^n p(r) + (2^n - 1),   x = n ln 2 + r,   |r| <= ln 2 / 2,   p(r) = r + r^2 q(r)
// with Taylor's q, whose remainder is below the rounding of p. Errors: a few units in the last
// place, for tanh near 0 as well. NaN stays NaN.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/stabilizer.h"

// A loop is vectorized only if everything in it is inlined, and compilers stop at some size.
#define XAI_ALWAYS_INLINE __attribute__((always_inline)) inline

namespace xaifast {

template <class T>
struct ExpParts;

template <>
struct ExpParts<float> {
  using Bits = std::uint32_t;
  static constexpr int kMantissa = 23;
  static constexpr Bits kBias = 127;
  static constexpr float kShift = 0x1.8p23f;  // added to n: n stands in the low bits
  static constexpr float kLog2e = 0x1.715476p+0f;
  static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  static constexpr float kMost = 87.0f;  // 2^n stays a normal number
  static constexpr float kTaylor[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120,
                                      1.0f / 24,   1.0f / 6,   1.0f / 2};
};

template <>
struct ExpParts<double> {
  using Bits = std::uint64_t;
  static constexpr int kMantissa = 52;
  static constexpr Bits kBias = 1023;
  static constexpr double kShift = 0x1.8p52;
  static constexpr double kLog2e = 0x1.71547652b82fep+0;
  static constexpr double kLn2High = 0x1.62e42fefap-1, kLn2Low = 0x1.cf79abc9e3b3ap-40;
  static constexpr double kMost = 708.0;
  static constexpr double kTaylor[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
      1.0 / 5040,       1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      1.0 / 2};
};

// p(r) and 2^n.
template <class T>
struct Exponential {
  T p;
  T scale;
};

template <class T>
XAI_ALWAYS_INLINE Exponential<T> exponential(T x) {
  using E = ExpParts<T>;
  x = x < -E::kMost ? -E::kMost : x;
  x = x > E::kMost ? E::kMost : x;
  const T shifted = x * E::kLog2e + E::kShift;
  const T n = shifted - E::kShift;
  const T r = (x - n * E::kLn2High) - n * E::kLn2Low;
  T q = E::kTaylor[0];
#ifndef __CUDACC__  // nvcc does not know it
#pragma GCC unroll 16
#endif
  for (int i = 1; i < static_cast<int>(sizeof E::kTaylor / sizeof(T)); ++i) {
    q = q * r + E::kTaylor[i];
  }
  const auto bits = __builtin_bit_cast(typename E::Bits, shifted);
  const T scale =
      __builtin_bit_cast(T, static_cast<typename E::Bits>((bits + E::kBias) << E::kMantissa));
  return {r + r * r * q, scale};
}

// 1 / (1 + e^-x)
template <class T>
XAI_HOST_DEVICE XAI_ALWAYS_INLINE T logistic(T x) {
#ifdef __CUDA_ARCH__
  return T(1) / (T(1) + exp(-x));
#else
  const Exponential<T> e = exponential(-x);
  return T(1) / (T(1) + (e.scale * e.p + e.scale));
#endif
}

// sgn(x) (e^2|x| - 1) / (e^2|x| + 1)
template <class T>
XAI_HOST_DEVICE XAI_ALWAYS_INLINE T hyperbolic_tangent(T x) {
#ifdef __CUDA_ARCH__
  return tanh(x);
#else
  const T size = x < T(0) ? -x : x;
  const Exponential<T> e = exponential(size + size);
  const T less_one = e.scale * e.p + (e.scale - T(1));
  const T y = less_one / (less_one + T(2));
  return x < T(0) ? -y : y;
#endif
}

}  // namespace xaifast
