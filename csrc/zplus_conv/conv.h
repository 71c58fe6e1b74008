// Relevance through a convolution by the contributions of one sign, in two products (Eq. 10.2):
//   s[t, o, k] = R[t, o, k] / (z + eps sgn z),  z[o, k] = b[k] + sum_p sum_i u_p(a_i) v_p(w_ik)
//   R[t, i]    = sum_p u_p(a_i) c_p[t, i],      c_p[t, i] = sum_(o, k) v_p(w_ik) s[t, o, k]
// The rule says what the one or two terms p are (u on the inputs, v on the weights):
//   kAll        a w                                   LRP-epsilon; LRP-gamma with other weights
//   kPositive   (a w)+ = a+ w+ + a- w-                z+
//   kNegative   (a w)- = a+ w- + a- w+                the other half of alpha-beta
//   kBox        (a - low_c) w+ + (a - high_c) w-      z-box; padding contributes nothing
//   kSquare     w^2                                   w-square; u = 1 inside of the map
// Where no a is negative, one term is enough for kPositive and kNegative.
//
// a [batch, in_0, in_1, groups channels]           channels inside
// R, s [targets, batch, out_0, out_1, groups units]
// w [groups units, kernel_0, kernel_1, channels]   for the first product
// w_t [groups channels, kernel_0, kernel_1, units] for the second
// b [groups units] or null
//
// dtypes: float32, float64, bfloat16, float16 (the latter two summed in float32; s is rounded to
// the dtype). Empty: nothing is written. Deterministic: each output is summed by one thread, in a
// fixed order.
#pragma once

#include <cstdint>

#include "common/stabilizer.h"

namespace xaifast {

enum class ConvRule { kAll, kPositive, kNegative, kBox, kSquare };

inline constexpr int kPixelChannels = 4;  // of a first layer

struct ConvShape {
  ConvRule rule;
  bool nonnegative;  // no a is negative
  std::int64_t targets, batch, groups;
  std::int64_t channels;  // inputs of a group
  std::int64_t units;     // outputs of a group
  std::int64_t in[2], out[2], kernel[2], stride[2], padding[2], dilation[2];
  double low[kPixelChannels], high[kPixelChannels];  // of kBox

  XAI_HOST_DEVICE int terms() const {
    const bool signs = rule == ConvRule::kPositive || rule == ConvRule::kNegative;
    return rule == ConvRule::kBox || (signs && !nonnegative) ? 2 : 1;
  }
  XAI_HOST_DEVICE std::int64_t taps() const { return kernel[0] * kernel[1]; }
  XAI_HOST_DEVICE std::int64_t inputs() const { return batch * in[0] * in[1] * groups * channels; }
  XAI_HOST_DEVICE std::int64_t outputs() const { return batch * out[0] * out[1] * groups * units; }
  bool empty() const { return targets * inputs() == 0; }
};

template <class T>
struct ConvTensors {
  const T *a, *R, *w, *w_t, *b;
  T *s, *r;
};

// ---- the terms --------------------------------------------------------------------------------

// A NaN stays one.
template <class C>
XAI_HOST_DEVICE inline C positive(C x) {
  return x < C(0) ? C(0) : x;
}
template <class C>
XAI_HOST_DEVICE inline C negative(C x) {
  return x > C(0) ? C(0) : x;
}

// u_p of an input of channel c; 0 for all p is what padding has.
template <class C>
XAI_HOST_DEVICE inline C input_term(const ConvShape& shape, int p, std::int64_t c, C a) {
  switch (shape.rule) {
    case ConvRule::kBox:
      return a - static_cast<C>(p == 0 ? shape.low[c] : shape.high[c]);
    case ConvRule::kSquare:
      return C(1);
    default:
      return shape.terms() == 1 ? a : p == 0 ? positive(a) : negative(a);
  }
}

// v_p of a weight.
template <class C>
XAI_HOST_DEVICE inline C weight_term(ConvRule rule, int p, C w) {
  switch (rule) {
    case ConvRule::kAll:
      return w;
    case ConvRule::kSquare:
      return w * w;
    default:
      return (p == 0) == (rule != ConvRule::kNegative) ? positive(w) : negative(w);
  }
}

}  // namespace xaifast
