#include "common/launch.cuh"
#include "relevance/kernels_cuda.h"
#include "relevance/pool_redistribute_element.h"

namespace xaifast {
namespace {

template <PoolRule kRule, class Index, class T>
cudaError_t redistribute(const T* a, const T* R, T* r, const PoolShape& shape, double eps,
                         cudaStream_t stream) {
  const PoolElement<T, kRule, Index> element{a, R, r, shape, static_cast<Compute<T>>(eps)};
  return launch<1>(element, stream);
}

template <PoolRule kRule, class T>
cudaError_t redistribute(const T* a, const T* R, T* r, const PoolShape& shape, double eps,
                         cudaStream_t stream) {
  return fits_32_bits(shape) ? redistribute<kRule, std::int32_t>(a, R, r, shape, eps, stream)
                             : redistribute<kRule, std::int64_t>(a, R, r, shape, eps, stream);
}

}  // namespace

template <class T>
cudaError_t pool_redistribute_cuda(const T* a, const T* R, T* r, const PoolShape& shape,
                                   PoolRule rule, double eps, cudaStream_t stream) {
  return rule == PoolRule::kWinnerTakeAll
             ? redistribute<PoolRule::kWinnerTakeAll>(a, R, r, shape, eps, stream)
             : redistribute<PoolRule::kProportional>(a, R, r, shape, eps, stream);
}

#define XAI_INSTANTIATE(T)                                                                 \
  template cudaError_t pool_redistribute_cuda<T>(const T*, const T*, T*, const PoolShape&, \
                                                 PoolRule, double, cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(__nv_bfloat16)
XAI_INSTANTIATE(__half)
#undef XAI_INSTANTIATE

}  // namespace xaifast
