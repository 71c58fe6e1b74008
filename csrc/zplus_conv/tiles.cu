#include "zplus_conv/tile.cuh"

namespace xaifast {

cudaError_t conv_tiles_cuda(const ConvShape& p, const ConvTensors<float>& x, double eps,
                            cudaStream_t stream) {
  return launch_conv_tiles<float, false>(p, x, eps, stream);
}

}  // namespace xaifast
