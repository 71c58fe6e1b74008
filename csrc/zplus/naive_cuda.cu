#include "common/launch.cuh"
#include "zplus/kernels_cuda.h"
#include "zplus/naive_element.h"

namespace xaifast {

template <class T>
cudaError_t conv_naive_cuda(const ConvShape& p, const ConvTensors<T>& x, double eps,
                            cudaStream_t stream) {
  if (p.empty()) return cudaSuccess;
  const auto error = launch<1>(NaiveDivide<T>{p, x, eps}, stream);
  return error == cudaSuccess ? launch<1>(NaiveMultiply<T>{p, x}, stream) : error;
}

#define XAI_INSTANTIATE(T)                                                                 \
  template cudaError_t conv_naive_cuda<T>(const ConvShape&, const ConvTensors<T>&, double, \
                                          cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(__nv_bfloat16)
XAI_INSTANTIATE(__half)
#undef XAI_INSTANTIATE

}  // namespace xaifast
