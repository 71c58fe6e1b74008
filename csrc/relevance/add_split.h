// Relevance of a sum, shared in proportion to the summands (the epsilon rule with unit weights):
//   z = x + beta y,   s = R / (z + eps sgn z),   Rx = x s,   Ry = beta y s
//
// x, y [n]                the summands, shared by all targets
// R, Rx, Ry [targets, n]  Rx and Ry are overwritten; one of them may be R
//
// dtypes: float32, float64, bfloat16, float16 (the latter two computed in float32). Deterministic.
#pragma once

#include <cstdint>

namespace xaifast {

struct SumShape {
  std::int64_t targets;
  std::int64_t n;
  double beta;
  double eps;
};

// Elements [begin, end) of n, all targets.
template <class T>
void add_split(const T* x, const T* y, const T* R, T* Rx, T* Ry, SumShape shape, std::int64_t begin,
               std::int64_t end);

}  // namespace xaifast
