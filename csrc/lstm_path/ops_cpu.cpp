// The LSTM path kernel on CPU tensors: pointers out of tensors, threads over samples and the parts
// of their paths.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <memory>
#include <tuple>

#include "lstm_path/shapes.h"

namespace xaifast {
namespace {

// Numbers of gates that a thread keeps: what a cache holds, or little more.
constexpr std::int64_t kKeptNumbers = 1 << 20;

void check_steps(const at::Tensor& step, std::int64_t T) {
  const auto* s = in<std::int64_t>(step);
  for (std::int64_t i = 0; i < step.numel(); ++i) {
    TORCH_CHECK_VALUE(s[i] >= 0 && s[i] < T, "lstm_path: step must lie in [0, T) for T = ", T,
                      ", got ", s[i]);
  }
}

template <class T>
void run(const LstmPaths& r) {
  const LstmBatch<T> batch = r.batch<T>(kLanes<T>);
  const LstmShape& p = r.shape;
  r.for_blocks(
      batch.parts, r.samples, [&](std::int64_t n, std::int64_t count, const at::Tensor& sums) {
        at::parallel_for(0, count * batch.parts, 1, [&](std::int64_t begin, std::int64_t end) {
          const auto work = std::make_unique_for_overwrite<T[]>(
              static_cast<std::size_t>(lstm_path_work(p, kLanes<T>)));
          for (std::int64_t item = begin; item < end; ++item) {
            const std::int64_t sample = n + item / batch.parts, part = item % batch.parts;
            lstm_path(batch.path(sample), p, batch.begin_of(part), batch.begin_of(part + 1),
                      work.get(), out<double>(sums) + item * sums.stride(1),
                      out<double>(r.S) + sample * p.nodes, out<double>(r.slope) + sample * p.nodes);
          }
        });
      });
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
    AT_DISPATCH_FLOATING_TYPES(change.scalar_type(), "lstm_path", [&] { run<scalar_t>(r); });
  }
  return {r.G, r.S, r.slope};
}

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { m.impl("lstm_path", &lstm_path_cpu); }

}  // namespace xaifast
