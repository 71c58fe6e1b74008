#include "relevance/backward_product.h"

#include <algorithm>

#include "common/clones.h"

namespace xaifast {
namespace {

// Four rows of w per pass over c: c is read and written once for four products.
constexpr std::int64_t kUnroll = 4;

template <class T>
XAI_CLONES void add_rows(const T* __restrict s, const T* __restrict w0, const T* __restrict w1,
                         const T* __restrict w2, const T* __restrict w3, T* __restrict c,
                         std::int64_t n) {
  const T s0 = s[0], s1 = s[1], s2 = s[2], s3 = s[3];
#pragma omp simd
  for (std::int64_t j = 0; j < n; ++j) {
    c[j] += s0 * w0[j] + s1 * w1[j] + s2 * w2[j] + s3 * w3[j];
  }
}

template <class T>
XAI_CLONES void add_row(T s, const T* __restrict w, T* __restrict c, std::int64_t n) {
#pragma omp simd
  for (std::int64_t j = 0; j < n; ++j) c[j] += s * w[j];
}

}  // namespace

template <class T>
std::int64_t nonzero_rows(const T* s, RowsShape shape, std::int64_t* rows) {
  std::int64_t count = 0;
  for (std::int64_t k = 0; k < shape.K; ++k) {
    bool used = false;
    for (std::int64_t m = 0; m < shape.m; ++m) used |= !(s[m * shape.K + k] == T(0));
    rows[count] = k;
    count += used;
  }
  return count;
}

template <class T>
void multiply_rows(const T* s, const T* w, T* c, RowsShape shape, const std::int64_t* rows,
                   std::int64_t count, std::int64_t begin, std::int64_t end) {
  const std::int64_t n = end - begin;
  const std::int64_t whole = count - count % kUnroll;
  for (std::int64_t m = 0; m < shape.m; ++m) {
    std::fill(c + m * shape.J + begin, c + m * shape.J + end, T(0));
  }
  for (std::int64_t i = 0; i < whole; i += kUnroll) {
    const T* wi[kUnroll];
    for (std::int64_t q = 0; q < kUnroll; ++q) wi[q] = w + rows[i + q] * shape.J + begin;
    for (std::int64_t m = 0; m < shape.m; ++m) {
      T sm[kUnroll];
      for (std::int64_t q = 0; q < kUnroll; ++q) sm[q] = s[m * shape.K + rows[i + q]];
      add_rows(sm, wi[0], wi[1], wi[2], wi[3], c + m * shape.J + begin, n);
    }
  }
  for (std::int64_t i = whole; i < count; ++i) {
    for (std::int64_t m = 0; m < shape.m; ++m) {
      add_row(s[m * shape.K + rows[i]], w + rows[i] * shape.J + begin, c + m * shape.J + begin, n);
    }
  }
}

#define XAI_INSTANTIATE(T)                                                               \
  template std::int64_t nonzero_rows<T>(const T*, RowsShape, std::int64_t*);             \
  template void multiply_rows<T>(const T*, const T*, T*, RowsShape, const std::int64_t*, \
                                 std::int64_t, std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
