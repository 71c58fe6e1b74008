// Numbers as tensor cores take them: 32-bit words that hold one float32 or two 16-bit numbers. The
// host gets the same results by plain arithmetic.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/pack.h"
#include "zplus/conv.h"

namespace xaifast {

using Word = std::uint32_t;

template <class T>
inline constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));

template <class T>
struct alignas(Word) Numbers {
  T v[kPerWord<T>];

  XAI_HOST_DEVICE explicit Numbers(Word word) {
    memcpy(static_cast<void*>(v), &word, sizeof(word));
  }
  XAI_HOST_DEVICE Word word() const {
    Word word;
    memcpy(&word, static_cast<const void*>(v), sizeof(word));
    return word;
  }
};

// The larger, or the smaller, of each number and its bound; a NaN stays one.
template <class T>
XAI_HOST_DEVICE inline Word at_least(Word x, Word bound) {
#ifdef __CUDA_ARCH__
  Word y;
  if constexpr (std::is_same_v<T, float>) {
    asm("max.NaN.f32 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bound));
  } else if constexpr (std::is_same_v<T, __half>) {
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bound));
  } else {
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bound));
  }
  return y;
#else
  Numbers<T> a(x), b(bound);
  for (int e = 0; e < kPerWord<T>; ++e) {
    if (widen<T>(a.v[e]) < widen<T>(b.v[e])) a.v[e] = b.v[e];
  }
  return a.word();
#endif
}

template <class T>
XAI_HOST_DEVICE inline Word at_most(Word x, Word bound) {
#ifdef __CUDA_ARCH__
  Word y;
  if constexpr (std::is_same_v<T, float>) {
    asm("min.NaN.f32 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bound));
  } else if constexpr (std::is_same_v<T, __half>) {
    asm("min.NaN.f16x2 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bound));
  } else {
    asm("min.NaN.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bound));
  }
  return y;
#else
  Numbers<T> a(x), b(bound);
  for (int e = 0; e < kPerWord<T>; ++e) {
    if (widen<T>(a.v[e]) > widen<T>(b.v[e])) a.v[e] = b.v[e];
  }
  return a.word();
#endif
}

// As an operand of a tensor core: float32 is rounded to tf32, which has 10 bits of fraction.
template <class T>
XAI_HOST_DEVICE inline Word operand(Word x) {
  if constexpr (std::is_same_v<T, float>) {
#ifdef __CUDA_ARCH__
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(x) : "f"(__uint_as_float(x)));
#else
    x = (x + 0x1000u) & ~0x1fffu;
#endif
  }
  return x;
}

// All numbers of a word the same.
template <class T>
inline Word filled(float x) {
  Numbers<T> n(0);
  for (int e = 0; e < kPerWord<T>; ++e) n.v[e] = narrow<T>(x);
  return n.word();
}

// The bounds between which v_p of a rule clamps a weight.
struct WeightBounds {
  Word low[2], high[2];
};

template <class T>
WeightBounds weight_bounds(ConvRule rule) {
  const Word zero = filled<T>(0), most = filled<T>(INFINITY), least = filled<T>(-INFINITY);
  switch (rule) {
    case ConvRule::kPositive:
      return {{zero, least}, {most, zero}};
    case ConvRule::kNegative:
      return {{least, zero}, {zero, most}};
    default:
      return {{least, least}, {most, most}};
  }
}

}  // namespace xaifast
