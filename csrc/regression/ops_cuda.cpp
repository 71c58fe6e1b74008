// The regression kernels on CUDA tensors: pointers out of tensors, on the current stream of their
// device. Compiled by the host compiler; the kernels are in the .cu files.
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "common/stream.h"
#include "regression/kernels_cuda.h"
#include "regression/ops.h"

namespace xaifast {
namespace {

// Launches f.operator()<T>(stream), T float or double like X.
template <class F>
void run_floating(const char* op, const Regression& r, const F& f) {
  launch_on(op, r.X, [&](cudaStream_t stream) {
    return AT_DISPATCH_FLOATING_TYPES(r.X.scalar_type(), "regression",
                                      [&] { return f.template operator()<scalar_t>(stream); });
  });
}

template <class T>
DesignInputs<T> inputs_of(const Regression& r, const Batch& b) {
  const std::int64_t X_step = step_of(r.X), weight_step = step_of(r.weight);
  return {in<T>(r.X) + b.begin * X_step, in<T>(r.weight) + b.begin * weight_step, X_step,
          weight_step};
}

double* from(const at::Tensor& x, const Batch& b) { return out<double>(x) + b.begin * x.stride(0); }

template <class T>
const T* targets_of(const Regression& r, const Batch& b) {
  return in<T>(r.y) + b.begin * r.shape.S;
}

struct Cuda {
  // Designs at a time: 512 MiB, enough to fill a GPU.
  static constexpr std::int64_t kNumbers = 1 << 26;

  static void least_squares(const Regression& r) {
    const DesignShape& p = r.shape;
    const auto options = r.coef.options();
    for_batches(r, factors_size(p), kNumbers, [&](const Batch& b) {
      const at::Tensor designs = at::empty({b.designs, factors_size(p)}, options);
      const at::Tensor work = at::empty({b.count, solution_size(p)}, options);
      const std::int64_t step = step_of(designs);
      run_floating("weighted_least_squares", r, [&]<class T>(cudaStream_t stream) {
        return prepare_cuda(inputs_of<T>(r, b), p, out<double>(designs), factors_size(p), b.designs,
                            stream);
      });
      run_floating("weighted_least_squares", r, [&]<class T>(cudaStream_t stream) {
        const cudaError_t error = factorize_cuda(p, out<double>(designs), b.designs, stream);
        if (error != cudaSuccess) return error;
        return solve_cuda(in<double>(designs), step, targets_of<T>(r, b), p, out<double>(work),
                          from(r.coef, b), from(r.intercept, b), b.count, stream);
      });
    });
  }

  static void prepare(const Regression& r, const Batch& b, const at::Tensor& designs,
                      const at::Tensor& targets) {
    const DesignShape& p = r.shape;
    run_floating("weighted_lasso", r, [&]<class T>(cudaStream_t stream) {
      const cudaError_t error = prepare_cuda(inputs_of<T>(r, b), p, out<double>(designs),
                                             design_size(p), b.designs, stream);
      if (error != cudaSuccess) return error;
      return prepare_target_cuda(in<double>(designs), step_of(designs), targets_of<T>(r, b), p,
                                 out<double>(targets), b.count, stream);
    });
  }

  // So many problems at a time that their workspaces fit into kNumbers; a stream takes turns.
  static void descend(const Regression& r, const Batch& b, const LassoRule& rule,
                      const at::Tensor& designs, const at::Tensor& targets, const at::Tensor& Q,
                      const at::Tensor& q, const at::Tensor& gap) {
    const DesignShape& p = r.shape;
    const std::int64_t step = step_of(designs), Q_step = step_of(Q);
    const std::int64_t most =
        std::clamp<std::int64_t>(kNumbers / (descent_size(p) + 1), 1, b.count);
    const at::Tensor work = at::empty({most, descent_size(p)}, r.coef.options());
    for (std::int64_t i = 0; i < b.count; i += most) {
      launch_on("weighted_lasso", r.X, [&](cudaStream_t stream) {
        return descend_cuda(in<double>(designs) + i * step, step,
                            in<double>(targets) + i * target_size(p), in<double>(Q) + i * Q_step,
                            Q_step, in<double>(q) + i * p.M, p, rule, out<double>(work),
                            from(r.coef, b) + i * p.M, from(r.intercept, b) + i, from(gap, b) + i,
                            std::min(most, b.count - i), stream);
      });
    }
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CUDA, m) { RegressionOps<Cuda>::add_to(m); }

}  // namespace xaifast
