// Number types on the CPU. Kernels compute in Compute<T>: float32 for the 16-bit types, else T.
//
// Both 16-bit types are integers that convert themselves, with operations that compilers vectorize
// for every instruction set; where a struct is assigned as a whole, or _Float16 is used, they do
// not. Rounding is to nearest even; a NaN stays a NaN.
#pragma once

#include <bit>
#include <cstdint>

namespace xaifast {

// The upper half of a float32.
struct BFloat16 {
  std::uint16_t bits;

  BFloat16() = default;
  BFloat16(const BFloat16&) = default;
  BFloat16& operator=(const BFloat16& x) {
    bits = x.bits;
    return *this;
  }

  BFloat16(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    bits = static_cast<std::uint16_t>(x == x ? rounded : 0x7fc0u);
  }
  operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};

// IEEE binary16: 5 bits of exponent, 10 of fraction.
struct Float16 {
  std::uint16_t bits;

  Float16() = default;
  Float16(const Float16&) = default;
  Float16& operator=(const Float16& x) {
    bits = x.bits;
    return *this;
  }

  Float16(float x) {
    constexpr std::uint32_t kSmallestNormal = 0x38800000u, kInfinity = 0x7f800000u;
    constexpr std::uint32_t kRebias = 0x38000000u;  // 112 exponents
    const auto u = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t a = u & 0x7fffffffu;
    const std::uint32_t normal = (a + 0xfffu + ((a >> 13) & 1u) - kRebias) >> 13;
    // The sum rounds to multiples of 2^-24, which are the bits of small numbers.
    const std::uint32_t small =
        std::bit_cast<std::uint32_t>(std::bit_cast<float>(a) + 0.5f) - 0x3f000000u;
    const std::uint32_t finite = a < kSmallestNormal ? small : normal < 0x7c00u ? normal : 0x7c00u;
    bits = static_cast<std::uint16_t>((a > kInfinity ? 0x7e00u : finite) | ((u >> 16) & 0x8000u));
  }
  operator float() const {
    const std::uint32_t a = bits & 0x7fffu;
    const std::uint32_t rebias = a < 0x7c00u ? 0x38000000u : 0x70000000u;  // infinity and NaN stay
    const float small = static_cast<float>(static_cast<std::int32_t>(a)) * 0x1p-24f;
    const std::uint32_t magnitude =
        a < 0x400u ? std::bit_cast<std::uint32_t>(small) : (a << 13) + rebias;
    return std::bit_cast<float>(magnitude | (std::uint32_t{bits} & 0x8000u) << 16);
  }
};

template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

}  // namespace xaifast
