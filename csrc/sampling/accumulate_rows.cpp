#include "sampling/accumulate_rows.h"

#include "common/clones.h"
#include "common/floats.h"

namespace xaifast {
namespace {

// Elements of a sample that stay in the first cache while the rows are added.
constexpr std::int64_t kStretch = 2048;

template <class G, class C>
XAI_CLONES void add_row(const G* __restrict g, C weight, C* __restrict total, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) total[i] += weight * static_cast<C>(Compute<G>(g[i]));
}

}  // namespace

template <class G, class C>
void accumulate_rows(const G* g, const std::int64_t* sample, const double* weight, C* total,
                     BatchShape shape, std::int64_t begin, std::int64_t end) {
  for (std::int64_t e = begin; e < end; e += kStretch) {
    const std::int64_t n = std::min(kStretch, end - e);
    for (std::int64_t r = 0; r < shape.rows; ++r) {
      add_row(g + r * shape.size + e, static_cast<C>(weight[r]), total + shape.at(sample[r]) + e,
              n);
    }
  }
}

#define XAI_INSTANTIATE(G, C)                                                           \
  template void accumulate_rows<G, C>(const G*, const std::int64_t*, const double*, C*, \
                                      BatchShape, std::int64_t, std::int64_t);
XAI_INSTANTIATE(float, float)
XAI_INSTANTIATE(BFloat16, float)
XAI_INSTANTIATE(Float16, float)
XAI_INSTANTIATE(double, double)
XAI_INSTANTIATE(float, double)
XAI_INSTANTIATE(BFloat16, double)
XAI_INSTANTIATE(Float16, double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
