// The launchers of the CUDA kernels: the contract of each is that of the CPU kernel of the same
// name, in the header of its file, for several designs or problems at once and with all pointers on
// the current device. A thread block takes a design, a warp a problem. They return after the
// launch, with its error; the work is done in the order of the stream. Nothing to do launches
// nothing. T is float or double. Deterministic: no atomics.
//
// A step is how far apart the inputs of neighbours are, 0 where they share one: X and weight by
// design, the design itself by problem. Workspaces, y and outputs are dense.
#pragma once

#include <cuda_runtime_api.h>

#include "regression/weighted_lasso.h"
#include "regression/weighted_least_squares.h"

namespace xaifast {

template <class T>
struct DesignInputs {
  const T* X;
  const T* weight;
  std::int64_t X_step;
  std::int64_t weight_step;
};

// design_size: numbers of workspace for each design, that of the kernel to come.
template <class T>
cudaError_t prepare_cuda(const DesignInputs<T>& inputs, const DesignShape& shape, double* designs,
                         std::int64_t design_size, std::int64_t count, cudaStream_t stream);

cudaError_t factorize_cuda(const DesignShape& shape, double* designs, std::int64_t count,
                           cudaStream_t stream);

template <class T>
cudaError_t solve_cuda(const double* designs, std::int64_t design_step, const T* y,
                       const DesignShape& shape, double* work, double* coef, double* intercept,
                       std::int64_t count, cudaStream_t stream);

template <class T>
cudaError_t prepare_target_cuda(const double* designs, std::int64_t design_step, const T* y,
                                const DesignShape& shape, double* targets, std::int64_t count,
                                cudaStream_t stream);

// Q is stepped like the designs: 0 where all problems share one.
cudaError_t descend_cuda(const double* designs, std::int64_t design_step, const double* targets,
                         const double* Q, std::int64_t Q_step, const double* q,
                         const DesignShape& shape, const LassoRule& rule, double* work,
                         double* coef, double* intercept, double* gap, std::int64_t count,
                         cudaStream_t stream);

}  // namespace xaifast
