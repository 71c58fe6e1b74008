#include "common/launch.cuh"
#include "sampling/kernels_cuda.h"
#include "sampling/path_points_element.h"

namespace xaifast {

template <class T>
cudaError_t path_points_cuda(const T* x, const T* baseline, const std::int64_t* sample,
                             const double* alpha, T* out, BatchShape shape, bool relu,
                             cudaStream_t stream) {
  const PathElement<T> element{
      x, baseline, sample, alpha, out, shape, path_floor<Compute<T>>(relu)};
  return launch_packs<kPackWidth<T>>(element, stream);
}

#define XAI_INSTANTIATE(T)                                                                         \
  template cudaError_t path_points_cuda<T>(const T*, const T*, const std::int64_t*, const double*, \
                                           T*, BatchShape, bool, cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(__nv_bfloat16)
XAI_INSTANTIATE(__half)
#undef XAI_INSTANTIATE

}  // namespace xaifast
