#include "relevance/multiply_parts.h"

#include <algorithm>

#include "common/clones.h"
#include "common/floats.h"

namespace xaifast {
namespace {

template <class T>
XAI_CLONES void multiply(const T* u, const T* c, T* R, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) R[i] = T(Compute<T>(u[i]) * Compute<T>(c[i]));
}

// Rows of two parts of `inner` numbers each; one number each (depthwise) is a loop of its own.
template <class T>
XAI_CLONES void multiply_pairs(const T* __restrict u, const T* __restrict c, T* __restrict R,
                               std::int64_t rows, std::int64_t inner) {
  if (inner == 1) {
#pragma omp simd
    for (std::int64_t o = 0; o < rows; ++o) {
      R[o] = T(Compute<T>(u[2 * o]) * Compute<T>(c[2 * o]) +
               Compute<T>(u[2 * o + 1]) * Compute<T>(c[2 * o + 1]));
    }
    return;
  }
  for (std::int64_t o = 0; o < rows; ++o, u += 2 * inner, c += 2 * inner, R += inner) {
#pragma omp simd
    for (std::int64_t i = 0; i < inner; ++i) {
      R[i] = T(Compute<T>(u[i]) * Compute<T>(c[i]) +
               Compute<T>(u[inner + i]) * Compute<T>(c[inner + i]));
    }
  }
}

template <class T>
XAI_CLONES void split_rows(const T* __restrict a, T* __restrict u, std::int64_t rows,
                           std::int64_t inner) {
  for (std::int64_t o = 0; o < rows; ++o, a += inner, u += 2 * inner) {
#pragma omp simd
    for (std::int64_t i = 0; i < inner; ++i) {
      const Compute<T> x = a[i];
      u[i] = T(x < 0 ? Compute<T>(0) : x);  // a NaN is in both, as clamp has it
      u[inner + i] = T(x > 0 ? Compute<T>(0) : x);
    }
  }
}

}  // namespace

template <class T>
void multiply_parts(const T* u, const T* c, T* R, PartsShape shape, std::int64_t begin,
                    std::int64_t end) {
  const std::int64_t row = shape.parts * shape.inner;
  while (begin < end) {  // one target at a time: the rows of u start again
    const std::int64_t first = begin % shape.outer;
    const std::int64_t rows = std::min(end - begin, shape.outer - first);
    if (shape.parts == 1) {
      multiply(u + first * row, c + begin * row, R + begin * row, rows * row);
    } else {
      multiply_pairs(u + first * row, c + begin * row, R + begin * shape.inner, rows, shape.inner);
    }
    begin += rows;
  }
}

template <class T>
void split_signs(const T* a, T* u, std::int64_t inner, std::int64_t begin, std::int64_t end) {
  split_rows(a + begin * inner, u + 2 * begin * inner, end - begin, inner);
}

#define XAI_INSTANTIATE(T)                                                                         \
  template void multiply_parts<T>(const T*, const T*, T*, PartsShape, std::int64_t, std::int64_t); \
  template void split_signs<T>(const T*, T*, std::int64_t, std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(BFloat16)
XAI_INSTANTIATE(Float16)
#undef XAI_INSTANTIATE

}  // namespace xaifast
