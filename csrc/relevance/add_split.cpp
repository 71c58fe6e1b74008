#include "relevance/add_split.h"

#include "common/clones.h"
#include "common/floats.h"
#include "common/stabilizer.h"

namespace xaifast {
namespace {

template <class T>
XAI_CLONES void add_split_run(const T* x, const T* y, const T* R, T* Rx, T* Ry, std::int64_t n,
                              Compute<T> beta, Compute<T> eps) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const Compute<T> xi = x[i];
    const Compute<T> yi = beta * Compute<T>(y[i]);
    const auto s = stabilized_quotient<Compute<T>>(Compute<T>(R[i]), xi + yi, eps);
    Rx[i] = T(xi * s);
    Ry[i] = T(yi * s);
  }
}

}  // namespace

template <class T>
void add_split(const T* x, const T* y, const T* R, T* Rx, T* Ry, SumShape shape, std::int64_t begin,
               std::int64_t end) {
  const auto beta = static_cast<Compute<T>>(shape.beta);
  const auto eps = static_cast<Compute<T>>(shape.eps);
  for (std::int64_t t = 0; t < shape.targets; ++t) {
    const std::int64_t at = t * shape.n + begin;
    add_split_run(x + begin, y + begin, R + at, Rx + at, Ry + at, end - begin, beta, eps);
  }
}

#define XAI_INSTANTIATE(T)                                                                 \
  template void add_split<T>(const T*, const T*, const T*, T*, T*, SumShape, std::int64_t, \
                             std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(BFloat16)
XAI_INSTANTIATE(Float16)
#undef XAI_INSTANTIATE

}  // namespace xaifast
