#include "regression/vectors.h"

#include "common/clones.h"

namespace xaifast {
namespace {

// Four numbers, in one register or in two. Wider ones gain nothing where AVX-512 is and lose by a
// factor of four where it is not.
constexpr std::int64_t kPack = 4;
using Pack = double __attribute__((vector_size(kPack * sizeof(double))));
using Unaligned =
    double __attribute__((vector_size(kPack * sizeof(double)), aligned(sizeof(double)), may_alias));

// How a pack is passed depends on the instruction set; all of these are inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

inline Pack pack(const double* x) { return *reinterpret_cast<const Unaligned*>(x); }

inline double sum(const Pack& x) { return (x[0] + x[2]) + (x[1] + x[3]); }

// Four independent sums, so that an addition need not wait for the one before it.
XAI_CLONES double dot_run(const double* __restrict x, const double* __restrict y, std::int64_t n) {
  Pack s0{}, s1{}, s2{}, s3{};
  std::int64_t i = 0;
  for (; i + 4 * kPack <= n; i += 4 * kPack) {
    s0 += pack(x + i) * pack(y + i);
    s1 += pack(x + i + kPack) * pack(y + i + kPack);
    s2 += pack(x + i + 2 * kPack) * pack(y + i + 2 * kPack);
    s3 += pack(x + i + 3 * kPack) * pack(y + i + 3 * kPack);
  }
  for (; i + kPack <= n; i += kPack) s0 += pack(x + i) * pack(y + i);
  double rest = 0;
  for (; i < n; ++i) rest += x[i] * y[i];
  return sum((s0 + s1) + (s2 + s3)) + rest;
}

// v is read once for all four columns.
XAI_CLONES void dots_of_four(const double* __restrict v, const double* __restrict a0,
                             const double* __restrict a1, const double* __restrict a2,
                             const double* __restrict a3, double* __restrict products,
                             std::int64_t n) {
  Pack p0{}, p1{}, p2{}, p3{}, q0{}, q1{}, q2{}, q3{};
  std::int64_t i = 0;
  for (; i + 2 * kPack <= n; i += 2 * kPack) {
    const Pack v0 = pack(v + i), v1 = pack(v + i + kPack);
    p0 += v0 * pack(a0 + i);
    p1 += v0 * pack(a1 + i);
    p2 += v0 * pack(a2 + i);
    p3 += v0 * pack(a3 + i);
    q0 += v1 * pack(a0 + i + kPack);
    q1 += v1 * pack(a1 + i + kPack);
    q2 += v1 * pack(a2 + i + kPack);
    q3 += v1 * pack(a3 + i + kPack);
  }
  double s0 = sum(p0 + q0), s1 = sum(p1 + q1), s2 = sum(p2 + q2), s3 = sum(p3 + q3);
  for (; i < n; ++i) {
    s0 += v[i] * a0[i];
    s1 += v[i] * a1[i];
    s2 += v[i] * a2[i];
    s3 += v[i] * a3[i];
  }
  products[0] = s0, products[1] = s1, products[2] = s2, products[3] = s3;
}

XAI_CLONES void add_multiple_run(double s, const double* __restrict x, double* __restrict y,
                                 std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) y[i] += s * x[i];
}

// Sixteen products for eight numbers read and four written.
XAI_CLONES void subtract_from_four(const double* __restrict f, const double* __restrict v0,
                                   const double* __restrict v1, const double* __restrict v2,
                                   const double* __restrict v3, double* __restrict a0,
                                   double* __restrict a1, double* __restrict a2,
                                   double* __restrict a3, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const double x0 = v0[i], x1 = v1[i], x2 = v2[i], x3 = v3[i];
    a0[i] -= (f[0] * x0 + f[1] * x1) + (f[2] * x2 + f[3] * x3);
    a1[i] -= (f[4] * x0 + f[5] * x1) + (f[6] * x2 + f[7] * x3);
    a2[i] -= (f[8] * x0 + f[9] * x1) + (f[10] * x2 + f[11] * x3);
    a3[i] -= (f[12] * x0 + f[13] * x1) + (f[14] * x2 + f[15] * x3);
  }
}

XAI_CLONES void subtract_from_one(const double* __restrict f, const double* __restrict v0,
                                  const double* __restrict v1, const double* __restrict v2,
                                  const double* __restrict v3, double* __restrict a,
                                  std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    a[i] -= (f[0] * v0[i] + f[1] * v1[i]) + (f[2] * v2[i] + f[3] * v3[i]);
  }
}

template <class T>
XAI_CLONES T largest_run(const T* __restrict x, std::int64_t n) {
  T m = 0;
#pragma omp simd reduction(max : m)
  for (std::int64_t i = 0; i < n; ++i) {
    const T xi = x[i] < 0 ? -x[i] : x[i];
    m = xi > m ? xi : m;
  }
  return m;
}

}  // namespace

double dot(const double* x, const double* y, std::int64_t n) { return dot_run(x, y, n); }

void dots(const double* v, const double* const* columns, std::int64_t count, double* products,
          std::int64_t n) {
  if (count == kColumns) {
    return dots_of_four(v, columns[0], columns[1], columns[2], columns[3], products, n);
  }
  for (std::int64_t k = 0; k < count; ++k) products[k] = dot_run(v, columns[k], n);
}

void add_multiple(double s, const double* x, double* y, std::int64_t n) {
  add_multiple_run(s, x, y, n);
}

void subtract_products(const double* f, const double* const* v, double* const* columns,
                       std::int64_t count, std::int64_t n) {
  if (count == kColumns) {
    return subtract_from_four(f, v[0], v[1], v[2], v[3], columns[0], columns[1], columns[2],
                              columns[3], n);
  }
  for (std::int64_t k = 0; k < count; ++k) {
    subtract_from_one(f + k * kTile, v[0], v[1], v[2], v[3], columns[k], n);
  }
}

template <class T>
double largest(const T* x, std::int64_t n) {
  return largest_run(x, n);
}
template double largest<float>(const float*, std::int64_t);
template double largest<double>(const double*, std::int64_t);

}  // namespace xaifast
