// Checks and layout of lstm_path, shared by the CPU and the CUDA glue. The only header of this
// family that knows PyTorch.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "common/tensors.h"
#include "lstm_path/lstm_path.h"

namespace xaifast {

// Parts of a path, summed apart and then in order: enough for the threads of a machine if there is
// one sample, and the same for any number of threads.
inline constexpr std::int64_t kMostParts = 16;
// Numbers of the sums of parts at a time: 64 MiB.
inline constexpr std::int64_t kSums = 1 << 23;

// N paths, all tensors dense.
struct LstmPaths {
  at::Tensor start, change;         // [N or 1, T, 4H], [N, T, 4H]
  at::Tensor w, w_t;                // [4H, H], [padded, 4H]
  at::Tensor alpha, weight;         // [N, K], [M, N, K] float64
  at::Tensor seed_h, seed_c, step;  // [M, N, H], [M, N, H], [M, N]
  at::Tensor G, S, slope;           // [M, N, T, 4H], [M, N, K], [M, N, K]
  LstmShape shape;
  std::int64_t samples;

  bool empty() const {
    return samples == 0 || shape.steps == 0 || shape.hidden == 0 || shape.targets == 0 ||
           shape.nodes == 0;
  }

  template <class T>
  LstmBatch<T> batch(std::int64_t lanes) const {
    const LstmShape& p = shape;
    const std::int64_t groups = (p.nodes + lanes - 1) / lanes;
    const LstmPath<T> first{in<T>(start),      in<T>(change),      in<T>(w),
                            in<T>(w_t),        in<double>(alpha),  in<double>(weight),
                            in<T>(seed_h),     in<T>(seed_c),      in<std::int64_t>(step),
                            samples * p.nodes, samples * p.hidden, samples};
    return {first, p, start.size(0) == 1, std::min(kMostParts, groups), lanes};
  }

  // Calls f(n, count, sums) for all samples, so many at a time that `sums` [count, parts, M, T, 4H]
  // is not large, and adds up the parts in order.
  template <class F>
  void for_blocks(std::int64_t parts, std::int64_t most, const F& f) const {
    const std::int64_t size = shape.targets * shape.steps * shape.gates();
    const std::int64_t count = std::clamp<std::int64_t>(kSums / (parts * size), 1, most);
    for (std::int64_t n = 0; n < samples; n += count) {
      const std::int64_t here = std::min(count, samples - n);
      const at::Tensor sums = at::zeros({here, parts, size}, alpha.options());
      f(n, here, sums);
      const at::Tensor total = sums.sum(1).view({here, shape.targets, shape.steps, shape.gates()});
      G.narrow(1, n, here).copy_(total.transpose(0, 1));
    }
  }
};

// Steps whose gates fit into so many numbers; at least as many as there are segments then.
inline std::int64_t segment_for(std::int64_t steps, std::int64_t hidden, std::int64_t lanes,
                                std::int64_t numbers) {
  const auto root = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(steps))));
  const std::int64_t fitting = numbers / std::max<std::int64_t>(1, 6 * hidden * lanes);
  return std::clamp(fitting, std::min(root, steps), std::max<std::int64_t>(1, steps));
}

inline void check_lstm_path(const char* op, const at::Tensor& start, const at::Tensor& change,
                            const at::Tensor& w, const at::Tensor& alpha, const at::Tensor& weight,
                            const at::Tensor& seed_h, const at::Tensor& seed_c,
                            const at::Tensor& step) {
  const auto t = change.scalar_type();
  TORCH_CHECK_TYPE(t == at::kFloat || t == at::kDouble, op,
                   ": change must be float32 or float64, got ", t);
  TORCH_CHECK_VALUE(change.dim() == 3 && change.size(2) % 4 == 0, op,
                    ": change must be [N, T, 4H], got ", change.sizes());
  const std::int64_t N = change.size(0), T = change.size(1), gates = change.size(2);
  check_like(op, "start", start, "change", change);
  TORCH_CHECK_VALUE(start.dim() == 3 && (start.size(0) == N || start.size(0) == 1) &&
                        start.size(1) == T && start.size(2) == gates,
                    op, ": start must be [N or 1, T, 4H] for change ", change.sizes(), ", got ",
                    start.sizes());
  check_like(op, "w", w, "change", change);
  TORCH_CHECK_VALUE(w.dim() == 2 && w.size(0) == gates && w.size(1) == gates / 4, op,
                    ": w must be [4H, H] for change ", change.sizes(), ", got ", w.sizes());
  for (const auto* x : {&alpha, &weight}) {
    TORCH_CHECK_TYPE(x->scalar_type() == at::kDouble, op,
                     ": alpha and weight must be float64, got ", x->scalar_type());
    TORCH_CHECK_VALUE(x->device() == change.device(), op,
                      ": alpha and weight must be on the device of change, got ", x->device());
  }
  TORCH_CHECK_VALUE(alpha.dim() == 2 && alpha.size(0) == N, op,
                    ": alpha must be [N, K] for N = ", N, ", got ", alpha.sizes());
  const std::int64_t K = alpha.size(1);
  TORCH_CHECK_VALUE(weight.dim() == 3 && weight.size(1) == N && weight.size(2) == K, op,
                    ": weight must be [M, N, K] for alpha ", alpha.sizes(), ", got ",
                    weight.sizes());
  const std::int64_t M = weight.size(0);
  check_like(op, "seed_h", seed_h, "change", change);
  check_like(op, "seed_c", seed_c, "change", change);
  const std::int64_t seed_sizes[] = {M, N, gates / 4};
  TORCH_CHECK_VALUE(seed_h.sizes() == at::IntArrayRef(seed_sizes), op,
                    ": seed_h must be [M, N, H] = ", at::IntArrayRef(seed_sizes), ", got ",
                    seed_h.sizes());
  TORCH_CHECK_VALUE(seed_c.sizes() == at::IntArrayRef(seed_sizes), op,
                    ": seed_c must be [M, N, H] = ", at::IntArrayRef(seed_sizes), ", got ",
                    seed_c.sizes());
  TORCH_CHECK_TYPE(step.scalar_type() == at::kLong, op, ": step must be int64, got ",
                   step.scalar_type());
  TORCH_CHECK_VALUE(
      step.device() == change.device() && step.dim() == 2 && step.size(0) == M && step.size(1) == N,
      op, ": step must be [M, N] = [", M, ", ", N, "] on the device of change, got ", step.sizes());
}

inline LstmPaths plan_lstm_path(const char* op, const at::Tensor& start, const at::Tensor& change,
                                const at::Tensor& w, const at::Tensor& alpha,
                                const at::Tensor& weight, const at::Tensor& seed_h,
                                const at::Tensor& seed_c, const at::Tensor& step,
                                std::int64_t lanes, std::int64_t kept_numbers) {
  check_lstm_path(op, start, change, w, alpha, weight, seed_h, seed_c, step);
  const std::int64_t N = change.size(0), T = change.size(1), H = change.size(2) / 4;
  const std::int64_t K = alpha.size(1), M = weight.size(0);
  const std::int64_t sizes[] = {M, N, T, 4 * H};
  checked_product(op, "the result", sizes);
  checked_product(op, "weight", weight.sizes());
  LstmPaths r;
  r.shape = {T, H, M, K, segment_for(T, H, lanes, kept_numbers)};
  r.samples = N;
  r.start = start.contiguous();
  r.change = change.contiguous();
  r.w = w.contiguous();
  r.w_t = at::constant_pad_nd(w.t(), {0, 0, 0, r.shape.padded() - H}).contiguous();
  r.alpha = alpha.contiguous();
  r.weight = weight.contiguous();
  r.seed_h = seed_h.contiguous();
  r.seed_c = seed_c.contiguous();
  r.step = step.contiguous();
  r.G = at::zeros(sizes, change.options());
  r.S = at::zeros({M, N, K}, r.alpha.options());
  r.slope = at::zeros({M, N, K}, r.alpha.options());
  return r;
}

}  // namespace xaifast
