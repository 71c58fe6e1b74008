#include "relevance/stabilized_divide.h"

#include "common/clones.h"
#include "common/floats.h"
#include "common/stabilizer.h"

namespace xaifast {
namespace {

// s = R / (z + eps sgn z), n elements. s may be R or z (same index is read before it is written).
template <class T>
XAI_CLONES void divide_run(const T* R, const T* z, T* s, std::int64_t n, Compute<T> eps) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    s[i] = T(stabilized_quotient<Compute<T>>(Compute<T>(R[i]), Compute<T>(z[i]), eps));
  }
}

// The same with one bias for the whole run (channels outside, space inside).
template <class T>
XAI_CLONES void divide_run_bias(const T* R, const T* z, Compute<T> b, T* s, std::int64_t n,
                                Compute<T> eps) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    s[i] = T(stabilized_quotient<Compute<T>>(Compute<T>(R[i]), Compute<T>(z[i]) + b, eps));
  }
}

// The same with a bias per element (channels last).
template <class T>
XAI_CLONES void divide_run_biases(const T* R, const T* z, const T* b, T* s, std::int64_t n,
                                  Compute<T> eps) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    s[i] = T(stabilized_quotient<Compute<T>>(Compute<T>(R[i]), Compute<T>(z[i]) + Compute<T>(b[i]),
                                             eps));
  }
}

}  // namespace

template <class T>
void stabilized_divide(const T* R, const T* z, const T* b, T* s, DivideShape shape, double eps,
                       std::int64_t begin, std::int64_t end) {
  const auto e = static_cast<Compute<T>>(eps);
  const std::int64_t n = shape.length;
  for (std::int64_t t = 0; t < shape.targets; ++t) {
    const std::int64_t target = t * shape.rows * n;
    if (b == nullptr) {
      const std::int64_t at = begin * n;
      divide_run(R + target + at, z + at, s + target + at, (end - begin) * n, e);
      continue;
    }
    for (std::int64_t i = begin; i < end; ++i) {
      const T* Ri = R + target + i * n;
      T* si = s + target + i * n;
      if (shape.channels_last) {
        divide_run_biases(Ri, z + i * n, b, si, n, e);
      } else {
        divide_run_bias(Ri, z + i * n, Compute<T>(b[i % shape.channels]), si, n, e);
      }
    }
  }
}

#define XAI_INSTANTIATE(T)                                                                  \
  template void stabilized_divide<T>(const T*, const T*, const T*, T*, DivideShape, double, \
                                     std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(BFloat16)
XAI_INSTANTIATE(Float16)
#undef XAI_INSTANTIATE

}  // namespace xaifast
