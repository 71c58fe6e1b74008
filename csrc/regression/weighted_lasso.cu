#include "regression/kernels_cuda.h"
#include "regression/team.cuh"
#include "regression/weighted_lasso_steps.h"

namespace xaifast {
namespace {

template <class T>
__global__ void __launch_bounds__(kLanes)
    prepare_each_target(const double* designs, std::int64_t design_step, const T* y,
                        const DesignShape p, double* targets, std::int64_t count) {
  for (std::int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    prepare_target_with(Block{}, designs + i * design_step, y + i * p.S, p,
                        targets + i * target_size(p));
  }
}

__global__ void __launch_bounds__(kLanes)
    descend_each(const double* designs, std::int64_t design_step, const double* targets,
                 const double* Q, std::int64_t Q_step, const double* q, const DesignShape p,
                 const LassoRule rule, double* work, double* coef, double* intercept, double* gap,
                 std::int64_t count) {
  for (std::int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    descend_with(Block{}, designs + i * design_step, targets + i * target_size(p), Q + i * Q_step,
                 q + i * p.M, p, rule, work + i * descent_size(p), coef + i * p.M, intercept + i,
                 gap + i);
  }
}

}  // namespace

template <class T>
cudaError_t prepare_target_cuda(const double* designs, std::int64_t design_step, const T* y,
                                const DesignShape& shape, double* targets, std::int64_t count,
                                cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  prepare_each_target<<<blocks_for(count), kLanes, 0, stream>>>(designs, design_step, y, shape,
                                                                targets, count);
  return cudaGetLastError();
}

cudaError_t descend_cuda(const double* designs, std::int64_t design_step, const double* targets,
                         const double* Q, std::int64_t Q_step, const double* q,
                         const DesignShape& shape, const LassoRule& rule, double* work,
                         double* coef, double* intercept, double* gap, std::int64_t count,
                         cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  descend_each<<<blocks_for(count), kLanes, 0, stream>>>(
      designs, design_step, targets, Q, Q_step, q, shape, rule, work, coef, intercept, gap, count);
  return cudaGetLastError();
}

#define XAI_INSTANTIATE(T)                                                               \
  template cudaError_t prepare_target_cuda<T>(const double*, std::int64_t, const T*,     \
                                              const DesignShape&, double*, std::int64_t, \
                                              cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
