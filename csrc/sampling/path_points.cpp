#include "sampling/path_points.h"

#include "common/clones.h"
#include "common/floats.h"

namespace xaifast {
namespace {

template <bool kFromX, class T>
XAI_CLONES void walk(const T* x, const T* b, T* out, std::int64_t n, Compute<T> step,
                     Compute<T> floor) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const Compute<T> xi = x[i], bi = b[i];
    out[i] = T(path_point<Compute<T>>(kFromX ? xi : bi, xi, bi, step, floor));
  }
}

}  // namespace

template <class T>
void path_points(const T* x, const T* baseline, const std::int64_t* sample, const double* alpha,
                 T* out, BatchShape shape, bool relu, std::int64_t begin, std::int64_t end) {
  const auto floor = path_floor<Compute<T>>(relu);
  for_each_stretch(shape, begin, end, [&](std::int64_t r, std::int64_t e, std::int64_t n) {
    const T* xe = x + shape.at(sample[r]) + e;
    const T* be = baseline + shape.baseline_at(sample[r]) + e;
    const PathStep<Compute<T>> p(alpha[r]);
    const auto run = p.from_x ? walk<true, T> : walk<false, T>;
    run(xe, be, out + r * shape.size + e, n, p.step, floor);
  });
}

#define XAI_INSTANTIATE(T)                                                                 \
  template void path_points<T>(const T*, const T*, const std::int64_t*, const double*, T*, \
                               BatchShape, bool, std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(BFloat16)
XAI_INSTANTIATE(Float16)
#undef XAI_INSTANTIATE

}  // namespace xaifast
