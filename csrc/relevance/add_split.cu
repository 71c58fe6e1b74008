#include "common/launch.cuh"
#include "relevance/add_split_element.h"
#include "relevance/kernels_cuda.h"

namespace xaifast {

template <class T>
cudaError_t add_split_cuda(const T* x, const T* y, const T* R, T* Rx, T* Ry, SumShape shape,
                           cudaStream_t stream) {
  using C = Compute<T>;
  const AddSplitElement<T> element{x,
                                   y,
                                   R,
                                   Rx,
                                   Ry,
                                   shape.targets,
                                   shape.n,
                                   static_cast<C>(shape.beta),
                                   static_cast<C>(shape.eps)};
  return launch_packs<kPackWidth<T>>(element, stream);
}

#define XAI_INSTANTIATE(T)                                                               \
  template cudaError_t add_split_cuda<T>(const T*, const T*, const T*, T*, T*, SumShape, \
                                         cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(__nv_bfloat16)
XAI_INSTANTIATE(__half)
#undef XAI_INSTANTIATE

}  // namespace xaifast
