#include "common/launch.cuh"
#include "relevance/kernels_cuda.h"
#include "relevance/multiply_parts_element.h"

namespace xaifast {

template <class T>
cudaError_t multiply_parts_cuda(const T* u, const T* c, T* R, PartsShape shape,
                                cudaStream_t stream) {
  return launch_packs<kPackWidth<T>>(MultiplyElement<T>{u, c, R, shape}, stream);
}

template <class T>
cudaError_t split_signs_cuda(const T* a, T* u, std::int64_t outer, std::int64_t inner,
                             cudaStream_t stream) {
  return launch_packs<kPackWidth<T>>(SplitElement<T>{a, u, outer, inner}, stream);
}

#define XAI_INSTANTIATE(T)                                                                       \
  template cudaError_t multiply_parts_cuda<T>(const T*, const T*, T*, PartsShape, cudaStream_t); \
  template cudaError_t split_signs_cuda<T>(const T*, T*, std::int64_t, std::int64_t, cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(__nv_bfloat16)
XAI_INSTANTIATE(__half)
#undef XAI_INSTANTIATE

}  // namespace xaifast
