#include "common/launch.cuh"
#include "windows/cut_boxes_element.h"
#include "windows/kernels_cuda.h"

namespace xaifast {

template <class T>
cudaError_t cut_boxes_cuda(const T* x, const T* box, const std::int64_t* origin,
                           const std::int64_t* start, T* out, const BoxShape& shape, double fill,
                           cudaStream_t stream) {
  const BoxElement<T> element{x, box, origin, start, out, shape, static_cast<Compute<T>>(fill)};
  return launch_packs<kPackWidth<T>>(element, stream);
}

#define XAI_INSTANTIATE(T)                                                                 \
  template cudaError_t cut_boxes_cuda<T>(const T*, const T*, const std::int64_t*,          \
                                         const std::int64_t*, T*, const BoxShape&, double, \
                                         cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(__nv_bfloat16)
XAI_INSTANTIATE(__half)
#undef XAI_INSTANTIATE

}  // namespace xaifast
