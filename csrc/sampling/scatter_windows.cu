#include "common/launch.cuh"
#include "sampling/kernels_cuda.h"
#include "sampling/scatter_windows_element.h"

namespace xaifast {
namespace {

template <int kAxes, class T>
cudaError_t scatter(const T* scores, T* out, const ScatterShape& shape, cudaStream_t stream) {
  ScatterElement<T, kAxes> element{scores,        out, shape.targets, shape.size, shape.K,
                                   shape.average, {}};
  fixed_axes(shape.windows, element.axis);
  return launch<1>(element, stream);
}

}  // namespace

template <class T>
cudaError_t scatter_windows_cuda(const T* scores, T* out, const ScatterShape& shape,
                                 cudaStream_t stream) {
  return shape.windows.axes <= kFewAxes ? scatter<kFewAxes>(scores, out, shape, stream)
                                        : scatter<kMaxAxes>(scores, out, shape, stream);
}

#define XAI_INSTANTIATE(T) \
  template cudaError_t scatter_windows_cuda<T>(const T*, T*, const ScatterShape&, cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(__nv_bfloat16)
XAI_INSTANTIATE(__half)
#undef XAI_INSTANTIATE

}  // namespace xaifast
