// The LSTM path kernel on CPU tensors: pointers out of tensors, threads over samples and the parts
// of their paths.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <memory>
#include <tuple>

#include "lstm_path/shapes.h"

namespace xaifast {
namespace {

// Numbers of gates that a thread keeps: what a cache holds, or little more.
constexpr std::int64_t kKeptNumbers = 1 << 20;
// Numbers of the sums of parts: 64 MiB.
constexpr std::int64_t kSums = 1 << 23;

void check_steps(const at::Tensor& step, std::int64_t T) {
  const auto* s = in<std::int64_t>(step);
  for (std::int64_t i = 0; i < step.numel(); ++i) {
    TORCH_CHECK_VALUE(s[i] >= 0 && s[i] < T, "lstm_path: step must lie in [0, T) for T = ", T,
                      ", got ", s[i]);
  }
}

// Samples [n, n + count), each in `parts` parts whose sums are added in order.
template <class T>
void run_samples(const LstmPaths& r, std::int64_t n, std::int64_t count, std::int64_t parts) {
  const LstmShape& p = r.shape;
  const std::int64_t size = p.targets * p.steps * p.gates();
  const at::Tensor sums = at::zeros({count, parts, size}, r.alpha.options());
  at::parallel_for(0, count * parts, 1, [&](std::int64_t begin, std::int64_t end) {
    const auto work =
        std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(lstm_path_work(p, kLanes<T>)));
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t sample = n + item / parts, part = item % parts;
      lstm_path(r.path<T>(sample), p, r.part_begin(part, parts, kLanes<T>),
                r.part_begin(part + 1, parts, kLanes<T>), work.get(),
                out<double>(sums) + item * size, out<double>(r.S) + sample * p.nodes,
                out<double>(r.slope) + sample * p.nodes);
    }
  });
  const at::Tensor total = sums.sum(1).view({count, p.targets, p.steps, p.gates()});
  r.G.narrow(1, n, count).copy_(total.transpose(0, 1));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lstm_path_cpu(
    const at::Tensor& start, const at::Tensor& change, const at::Tensor& w, const at::Tensor& alpha,
    const at::Tensor& weight, const at::Tensor& seed_h, const at::Tensor& seed_c,
    const at::Tensor& step) {
  const std::int64_t lanes = change.scalar_type() == at::kDouble ? kLanes<double> : kLanes<float>;
  const LstmPaths r = plan_lstm_path("lstm_path", start, change, w, alpha, weight, seed_h, seed_c,
                                     step, lanes, kKeptNumbers);
  check_steps(r.step, r.shape.steps);
  if (!r.empty()) {
    const LstmShape& p = r.shape;
    const std::int64_t parts = r.parts(lanes);
    const std::int64_t most =
        std::max<std::int64_t>(1, kSums / (parts * p.targets * p.steps * p.gates()));
    AT_DISPATCH_FLOATING_TYPES(change.scalar_type(), "lstm_path", [&] {
      for (std::int64_t n = 0; n < r.samples; n += most) {
        run_samples<scalar_t>(r, n, std::min(most, r.samples - n), parts);
      }
    });
  }
  return {r.G, r.S, r.slope};
}

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { m.impl("lstm_path", &lstm_path_cpu); }

}  // namespace xaifast
