// Eq. 10.2 for a plain convolution with few input channels, such as the first of a network:
//   z = w u + b,   s = R / (z + eps sgn z),   c = w^T s,   R_j = sum over parts of u_j c_j
// Of each row of outputs come, one after the other, the patches of u, z, s, and the columns w^T s,
// which are added to the rows of c that they reach. All of it stays in the cache: R is read once,
// and neither z nor s nor c of a whole map exists. Where several rows of outputs reach an input, a
// caller that has only its row makes them again: no thread writes for another.
//
// u [N, parts x C, H, W]            any strides
// R [targets, N, K, rows, columns]  any strides; fast where its channels are dense
// z [N, K, rows, columns] or null   the same
// result [targets, N, C, H, W]      any strides; overwritten
// w [K' / P, J, P]                  rows (kernel row, kernel column, channel) of J inputs
// w_back [J' / P, K', P]            its transpose; both in panels, by ops.few_weights.
//                                   P = 2 kLanes<T>; K' and J' are K and J rounded up to it
// b [K]                             added to z; zeros where there is none
// scratch [few_scratch]             of one thread
// parts x C <= kFewChannels, kernel[0] <= kFewRows. dtypes: float32, float64. Empty: R = 0.
// Deterministic: the same bits whichever rows a call is for.
#pragma once

#include <cstdint>

#include "relevance/panels.h"

namespace xaifast {

inline constexpr std::int64_t kFewChannels = 8, kFewRows = 16;

struct FewShape {
  std::int64_t targets, N, parts, C, H, W;  // of u and the result
  std::int64_t K, rows, columns;            // of R
  std::int64_t kernel[2], stride[2], padding[2];

  std::int64_t channels() const { return parts * C; }
  std::int64_t inputs() const { return kernel[0] * kernel[1] * channels(); }
};

// A tensor and its strides.
template <class T>
struct Map {
  T* data;
  std::int64_t target, n, c, i, j;
};

template <class T>
struct FewTensors {
  Map<const T> u, R, z;
  Map<T> result;
  const T* w;
  const T* w_back;
  const T* b;
};

// Elements of scratch.
template <class T>
std::int64_t few_scratch(const FewShape& shape);

// Rows [begin, end) of the N H rows of inputs.
template <class T>
void relprop_few(const FewTensors<T>& tensors, const FewShape& shape, double eps, T* scratch,
                 std::int64_t begin, std::int64_t end);

}  // namespace xaifast
