// A standard normal number from a random word, in float32, bit for bit the same everywhere: only
// sums, products, quotients and square roots that are rounded correctly, and operations on bits.
//
// One bit is the sign, the other 31 are the probability p of the tail behind the number, so that
// both tails are resolved alike, out to 6.3 standard deviations (p = 2^-33):
//   |z| = Phi^-1(1 - p),   p = (m + 1/2) / 2^32,   m in [0, 2^31)
// Phi^-1 is the rational approximation PPND7 of Wichura (1988), Algorithm AS 241, Applied
// Statistics 37; |z| is within 4e-7 |z| of it. Its third branch is for tails that are not reached.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "common/rounded.h"

namespace xaifast {

// The bits of one 32-bit type as another; std::bit_cast is not for every device compiler.
template <class To, class From>
XAI_HOST_DEVICE inline To bits_as(From x) {
#ifdef __CUDA_ARCH__
  To y;
  memcpy(&y, &x, sizeof(y));
  return y;
#else
  return std::bit_cast<To>(x);
#endif
}

// c0 + c1 x + c2 x^2 + ..., by Horner's rule.
XAI_HOST_DEVICE inline float polynomial(float, float c0) { return c0; }
template <class... C>
XAI_HOST_DEVICE inline float polynomial(float x, float c0, C... c) {
  return rounded_product(polynomial(x, c...), x) + c0;
}

// ln p of a normal number p: p = m 2^k with m in [sqrt(1/2), sqrt(2)), and
//   ln m = 2 artanh s = 2 (s + s^3/3 + s^5/5 + ...),   s = (m - 1) / (m + 1)
XAI_HOST_DEVICE inline float logarithm(float p) {
  constexpr std::int32_t kRootHalf = 0x3f3504f3, kOne = 0x3f800000, kMantissa = 0x007fffff;
  const std::int32_t bits = bits_as<std::int32_t>(p) + (kOne - kRootHalf);
  const auto k = static_cast<float>((bits >> 23) - 127);
  const float m = bits_as<float>((bits & kMantissa) + kRootHalf);
  const float s = rounded_quotient(m - 1.0f, m + 1.0f);
  const float series =
      polynomial(rounded_product(s, s), 2.0f, 2.0f / 3.0f, 2.0f / 5.0f, 2.0f / 7.0f, 2.0f / 9.0f);
  return rounded_product(k, 0.693147180559945f) + rounded_product(s, series);
}

XAI_HOST_DEVICE inline float standard_normal(std::uint32_t word) {
  const auto m = static_cast<float>(static_cast<std::int32_t>(word & 0x7fffffffu));
  const float p = rounded_product(m + 0.5f, 0x1p-32f);
  const float q = 0.5f - p;
  const bool central = q <= 0.425f;
  // Both branches are computed, so that the loop stays free of branches.
  const float r = central ? 0.180625f - rounded_product(q, q) : rounded_root(-logarithm(p)) - 1.6f;
  const float inner = rounded_product(
      q, polynomial(r, 3.3871327179e+00f, 5.0434271938e+01f, 1.5929113202e+02f, 5.9109374720e+01f));
  const float inner_by =
      polynomial(r, 1.0f, 1.7895169469e+01f, 7.8757757664e+01f, 6.7187563600e+01f);
  const float outer =
      polynomial(r, 1.4234372777e+00f, 2.7568153900e+00f, 1.3067284816e+00f, 1.7023821103e-01f);
  const float outer_by = polynomial(r, 1.0f, 7.3700164250e-01f, 1.2021132975e-01f);
  const float z = rounded_quotient(central ? inner : outer, central ? inner_by : outer_by);
  return bits_as<float>(bits_as<std::uint32_t>(z) | (word & 0x80000000u));
}

}  // namespace xaifast
