#include "regression/design_steps.h"
#include "regression/kernels_cuda.h"
#include "regression/team.cuh"

namespace xaifast {
namespace {

template <class T>
__global__ void __launch_bounds__(kBlockThreads, kBlocks)
    prepare_each(const DesignInputs<T> inputs, const DesignShape p, double* designs,
                 std::int64_t design_size, std::int64_t count) {
  __shared__ Design d;
  for (std::int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    Block{}.share_value(d, [&] { return design_at(designs + i * design_size, p); });
    prepare_with(Block{}, inputs.X + i * inputs.X_step, inputs.weight + i * inputs.weight_step, d);
  }
}

}  // namespace

template <class T>
cudaError_t prepare_cuda(const DesignInputs<T>& inputs, const DesignShape& shape, double* designs,
                         std::int64_t design_size, std::int64_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  prepare_each<<<blocks_for(count), kBlockThreads, 0, stream>>>(inputs, shape, designs, design_size,
                                                                count);
  return cudaGetLastError();
}

#define XAI_INSTANTIATE(T)                                                                  \
  template cudaError_t prepare_cuda<T>(const DesignInputs<T>&, const DesignShape&, double*, \
                                       std::int64_t, std::int64_t, cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
