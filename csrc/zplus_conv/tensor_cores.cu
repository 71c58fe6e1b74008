#include "zplus_conv/tile.cuh"

namespace xaifast {

template <class T>
cudaError_t conv_tensor_cores_cuda(const ConvShape& p, const ConvTensors<T>& x, double eps,
                                   cudaStream_t stream) {
  return launch_conv_tiles<T, true>(p, x, eps, stream);
}

#define XAI_INSTANTIATE(T)                                                                        \
  template cudaError_t conv_tensor_cores_cuda<T>(const ConvShape&, const ConvTensors<T>&, double, \
                                                 cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(__nv_bfloat16)
XAI_INSTANTIATE(__half)
#undef XAI_INSTANTIATE

}  // namespace xaifast
