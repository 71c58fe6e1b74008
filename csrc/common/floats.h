// Number types on the CPU. Kernels compute in Compute<T>: float32 for the 16-bit types, else T.
#pragma once

#include <bit>
#include <cstdint>

namespace xaifast {

// bfloat16: the upper half of a float32, rounded to nearest even; a NaN stays a NaN.
struct BFloat16 {
  std::uint16_t bits;

  BFloat16() = default;
  BFloat16(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    const auto rounded = static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    bits = x == x ? rounded : std::uint16_t{0x7fc0};
  }
  operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};

using Float16 = _Float16;

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
