// Backward product of a dense layer for few rows of s, reading only the weights that matter:
//   c[m, j] = sum_k s[m, k] w[k, j]     over those k where some s[m, k] is not zero
// Relevance is zero wherever the activation above is zero (half of a ReLU layer, all but one logit
// for a single target), so whole rows of w are never read. At small batch the product is bound by
// that reading.
//
// s [m, K], w [K, J] row-major, c [m, J] overwritten.
// rows [count]: the k to read, ascending (nonzero_rows finds them). m <= kMaxRows.
// dtypes: float32, float64. Deterministic: k is summed in ascending order, whatever the threads.
#pragma once

#include <cstdint>

namespace xaifast {

inline constexpr std::int64_t kMaxRows = 16;

struct RowsShape {
  std::int64_t m;
  std::int64_t K;
  std::int64_t J;
};

// Writes the k with a nonzero s[., k] (a NaN counts) to rows [K] and returns how many they are.
template <class T>
std::int64_t nonzero_rows(const T* s, RowsShape shape, std::int64_t* rows);

// Columns [begin, end) of c.
template <class T>
void multiply_rows(const T* s, const T* w, T* c, RowsShape shape, const std::int64_t* rows,
                   std::int64_t count, std::int64_t begin, std::int64_t end);

}  // namespace xaifast
