// Points on the straight path from a baseline to a sample, where integrated gradients and its kin
// evaluate a model:
//   out[r] = x'[n] + alpha[r] (x[n] - x'[n])   with n = sample[r],   and max(0, .) of it with relu
//
// x [samples, size], x' [baselines, size]     the ends of the paths
// sample [rows], alpha [rows]                 alpha may leave [0, 1]
// out [rows, size]                            overwritten; must not overlap x or x'
//
// dtypes: float32, float64, bfloat16, float16 (the latter two computed in float32). The path is
// walked from its nearer end, so that alpha = 0 and alpha = 1 give x' and x exactly. A NaN stays a
// NaN. Empty: nothing is written. Deterministic, the same on every device; a row whose sample is
// not there (sample[r] outside [0, samples)) is NaN on CUDA and not allowed on the CPU.
#pragma once

#include "common/rounded.h"
#include "sampling/batch.h"

namespace xaifast {

// Elements [begin, end) of rows x size.
template <class T>
void path_points(const T* x, const T* baseline, const std::int64_t* sample, const double* alpha,
                 T* out, BatchShape shape, bool relu, std::int64_t begin, std::int64_t end);

// The nearer end of the path, and how far from it alpha is.
template <class C>
struct PathStep {
  bool from_x;
  C step;

  XAI_HOST_DEVICE explicit PathStep(double alpha)
      : from_x(alpha >= 0.5), step(static_cast<C>(from_x ? alpha - 1.0 : alpha)) {}
};

// What relu cuts off below: numbers under 0, or none.
template <class C>
inline C path_floor(bool relu) {
  return relu ? C(0) : -std::numeric_limits<C>::infinity();
}

template <class C>
XAI_HOST_DEVICE inline C path_point(C end, C x, C b, C step, C floor) {
  const C y = end + rounded_product(step, x - b);
  return y < floor ? floor : y;
}

}  // namespace xaifast
