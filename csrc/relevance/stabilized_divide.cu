#include "common/launch.cuh"
#include "relevance/kernels_cuda.h"
#include "relevance/stabilized_divide_element.h"

namespace xaifast {

template <class T>
cudaError_t stabilized_divide_cuda(const T* R, const T* z, const T* b, T* s, DivideShape shape,
                                   double eps, cudaStream_t stream) {
  const DivideElement<T> element{R, z, b, s, shape, static_cast<Compute<T>>(eps)};
  return launch_packs<kPackWidth<T>>(element, stream);
}

#define XAI_INSTANTIATE(T)                                                                      \
  template cudaError_t stabilized_divide_cuda<T>(const T*, const T*, const T*, T*, DivideShape, \
                                                 double, cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(__nv_bfloat16)
XAI_INSTANTIATE(__half)
#undef XAI_INSTANTIATE

}  // namespace xaifast
