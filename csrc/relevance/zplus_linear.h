// Eq. 10.2 of a dense layer by the signs of its contributions, for few rows: the z+, alpha-beta and
// gamma rules from the layer's own weights, each of which is read from memory once.
//   R[t, n, j] = sum_p share_p sum_k q[j, k] R[t, n, k] / (z_k + eps sgn z_k)
//   q[j, k] = positive_p (a[n, j] w[k, j])+ + negative_p (a[n, j] w[k, j])-
//   z_k     = sum_j q[j, k] + positive_p b_k+ + negative_p b_k-
// Both signs are summed at once, and so are the parts p on the way back: with s+ and s- the sums
// over p of share positive (or negative) R / (z + eps sgn z),
//   R[t, n, j] = a[n, j] c_j,   c_j = sum_k (s+ where a[n, j] w[k, j] > 0, else s-) w[k, j]
//
// a [N, J], w [K, J]                row-major
// R [targets, N, K]                 at most kMaxRows (backward_product.h) rows in all
// b [K] or null                     bias
// units [count]                     the k with relevance (nonzero_rows finds them): of w, no other
//                                   row is read
// c [targets, N, J]                 overwritten, for a range of units; sum_blocks adds up several
//                                   and multiplies by a
// dtypes: float32, float64. Empty: nothing is read. A NaN in a, or in w or R of a unit, is kept.
// Deterministic: units are summed in ascending order within each range of them.
#pragma once

#include <cstdint>

namespace xaifast {

inline constexpr std::int64_t kMostSignParts = 2;

struct SignPart {
  double share, positive, negative;
};

struct ZplusLinear {
  std::int64_t targets, N, K, J;
  std::int64_t parts;
  SignPart part[kMostSignParts];
  double eps;

  std::int64_t rows() const { return targets * N; }
};

// Units of a range go through both products in groups of so many: they share what is read and
// written for a column. Cut ranges at multiples of it.
inline constexpr std::int64_t kUnitsAtOnce = 4;

// The part of units [begin, end) of the list in c.
template <class T>
void zplus_linear(const T* a, const T* R, const T* w, const T* b, T* c, const ZplusLinear& shape,
                  const std::int64_t* units, std::int64_t begin, std::int64_t end);

// R[t, n, j] = a[n, j] sum over the blocks of c [blocks, targets, N, J], for elements [begin, end)
// of targets x N x J.
template <class T>
void sum_blocks(const T* c, const T* a, T* R, const ZplusLinear& shape, std::int64_t blocks,
                std::int64_t begin, std::int64_t end);

}  // namespace xaifast
