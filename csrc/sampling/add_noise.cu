#include "common/launch.cuh"
#include "sampling/add_noise_element.h"
#include "sampling/kernels_cuda.h"

namespace xaifast {

template <class T>
cudaError_t add_noise_cuda(const T* x, const std::int64_t* sample, const std::int64_t* draw,
                           const double* std, T* out, const NoiseShape& shape,
                           cudaStream_t stream) {
  return noise_packs(x, out, shape)
             ? launch<1>(NoiseElement<T, true>{x, sample, draw, std, out, shape}, stream)
             : launch<1>(NoiseElement<T, false>{x, sample, draw, std, out, shape}, stream);
}

#define XAI_INSTANTIATE(T)                                                                   \
  template cudaError_t add_noise_cuda<T>(const T*, const std::int64_t*, const std::int64_t*, \
                                         const double*, T*, const NoiseShape&, cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(__nv_bfloat16)
XAI_INSTANTIATE(__half)
#undef XAI_INSTANTIATE

}  // namespace xaifast
