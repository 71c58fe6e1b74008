// The last step of Eq. 10.2's procedure, and the split of a signed activation that precedes it.
//
// multiply_parts:  R[t, o, i] = sum_p u[o, p, i] c[t, o, p, i]
//   u [outer, parts, inner]            what entered the weights (a, or its positive and negative
//   part) c [targets, outer, parts, inner]   the backward product w^T s R [targets, outer, inner]
//   overwritten; may be c when parts == 1
//
// split_signs:  u[o, 0, i] = max(a, 0),  u[o, 1, i] = min(a, 0)
//   a [outer, inner], u [outer, 2, inner]   overwritten; must not overlap a
//
// dtypes: float32, float64, bfloat16, float16 (the latter two computed in float32). Deterministic.
#pragma once

#include <cstdint>

namespace xaifast {

struct PartsShape {
  std::int64_t targets;
  std::int64_t outer;
  std::int64_t parts;
  std::int64_t inner;
};

// Rows [begin, end) of targets x outer.
template <class T>
void multiply_parts(const T* u, const T* c, T* R, PartsShape shape, std::int64_t begin,
                    std::int64_t end);

// Rows [begin, end) of outer.
template <class T>
void split_signs(const T* a, T* u, std::int64_t inner, std::int64_t begin, std::int64_t end);

}  // namespace xaifast
