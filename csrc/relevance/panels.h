// Products of a block of rows, small enough for the caches, with weights that lie in panels: what
// the convolutions of winograd_conv.h and relprop_few.h are made of.
//   m[r, k] = sum_c v[r, c] w[c, k]
//
// v [rows, C], m [rows, K]         rows a multiple of kRowsLeft (padded_rows); m overwritten
// w [K / panel, C, panel]          panel = 2 kLanes<T>, K a multiple of it
// dtypes: float32, float64. Empty: C = 0 gives zeros. Deterministic: each sum is over c in
// ascending order, in chains (kChain), whatever the rows around it.
#pragma once

#include <cstdint>

namespace xaifast {

template <class T>
inline constexpr std::int64_t kLanes = 64 / sizeof(T);

// N numbers that are computed with at once, anywhere in memory; narrower machines take several
// registers for them. By default as many as the widest kind of register holds.
template <class T, std::int64_t N = kLanes<T>>
struct Register {
  typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <class T>
using Vec = typename Register<T>::type;

template <class T>
inline const Vec<T>& vec(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}
template <class T>
inline Vec<T>& vec(T* p) {
  return *reinterpret_cast<Vec<T>*>(p);
}

// The rows that are multiplied at once, and what the last of them may leave over.
inline constexpr std::int64_t kRows = 12, kRowsLeft = 4;

inline std::int64_t padded_rows(std::int64_t rows) {
  return (rows + kRowsLeft - 1) / kRowsLeft * kRowsLeft;
}

template <class T>
void multiply_rows(const T* v, const T* w, T* m, std::int64_t rows, std::int64_t C, std::int64_t K);

}  // namespace xaifast
