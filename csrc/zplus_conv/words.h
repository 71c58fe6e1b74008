// Words of numbers (common/numbers.h) as operands of the products, and the bounds of the rules.
#pragma once

#include <cmath>
#include <type_traits>

#include "common/numbers.h"
#include "common/ptx.h"
#include "zplus_conv/conv.h"

namespace xaifast {

// As an operand of a tensor core: float32 is rounded to tf32, which has 10 bits of fraction.
template <class T>
XAI_HOST_DEVICE inline Word operand(Word x) {
  return std::is_same_v<T, float> ? to_tf32(x) : x;
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
