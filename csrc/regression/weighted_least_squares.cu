#include "regression/kernels_cuda.h"
#include "regression/team.cuh"
#include "regression/weighted_least_squares_steps.h"

namespace xaifast {
namespace {

__global__ void __launch_bounds__(kBlockThreads, kBlocks)
    factorize_each(const DesignShape p, double* designs, std::int64_t count) {
  __shared__ Factors f;
  for (std::int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    Block{}.share_value(f, [&] { return factors_at(designs + i * factors_size(p), p); });
    factorize_with(Block{}, f);
  }
}

template <class T>
__global__ void __launch_bounds__(kLanes)
    solve_each(const double* designs, std::int64_t design_step, const T* y, const DesignShape p,
               double* work, double* coef, double* intercept, std::int64_t count) {
  for (std::int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    solve_with(Block{}, designs + i * design_step, y + i * p.S, p, work + i * solution_size(p),
               coef + i * p.M, intercept + i);
  }
}

}  // namespace

cudaError_t factorize_cuda(const DesignShape& shape, double* designs, std::int64_t count,
                           cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  factorize_each<<<blocks_for(count), kBlockThreads, 0, stream>>>(shape, designs, count);
  return cudaGetLastError();
}

template <class T>
cudaError_t solve_cuda(const double* designs, std::int64_t design_step, const T* y,
                       const DesignShape& shape, double* work, double* coef, double* intercept,
                       std::int64_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  solve_each<<<blocks_for(count), kLanes, 0, stream>>>(designs, design_step, y, shape, work, coef,
                                                       intercept, count);
  return cudaGetLastError();
}

#define XAI_INSTANTIATE(T)                                                                      \
  template cudaError_t solve_cuda<T>(const double*, std::int64_t, const T*, const DesignShape&, \
                                     double*, double*, double*, std::int64_t, cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
