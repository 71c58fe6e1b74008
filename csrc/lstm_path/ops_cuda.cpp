// The LSTM path kernel on CUDA tensors: pointers out of tensors, on the current stream of their
// device. Compiled by the host compiler; the kernel is in the .cu file.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>

#include "common/stream.h"
#include "lstm_path/kernels_cuda.h"
#include "lstm_path/shapes.h"

namespace xaifast {
namespace {

// Blocks at a time, enough to fill a GPU, and the numbers of gates that all of them keep.
constexpr std::int64_t kBlocks = 1024;
constexpr std::int64_t kKeptNumbers = 1 << 27;

template <class T>
void run(const LstmPaths& r) {
  const LstmBatch<T> batch = r.batch<T>(kCudaLanes);
  const std::int64_t size = lstm_path_work(r.shape, kCudaLanes);
  const std::int64_t most = std::max<std::int64_t>(1, kBlocks / batch.parts);
  r.for_blocks(batch.parts, most, [&](std::int64_t n, std::int64_t count, const at::Tensor& sums) {
    const std::int64_t items = count * batch.parts;
    const at::Tensor work = at::empty({items, size}, r.change.options());
    const at::Tensor slopes =
        at::empty({items, r.shape.targets * kCudaUnits * kCudaLanes}, r.alpha.options());
    launch_on("lstm_path", r.change, [&](cudaStream_t stream) {
      return lstm_path_cuda<T>(batch, n, count, out<T>(work), out<double>(slopes),
                               out<double>(sums), out<double>(r.S), out<double>(r.slope), stream);
    });
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lstm_path_on_cuda(
    const at::Tensor& start, const at::Tensor& change, const at::Tensor& w, const at::Tensor& alpha,
    const at::Tensor& weight, const at::Tensor& seed_h, const at::Tensor& seed_c,
    const at::Tensor& step) {
  const LstmPaths r = plan_lstm_path("lstm_path", start, change, w, alpha, weight, seed_h, seed_c,
                                     step, kCudaLanes, kKeptNumbers / kBlocks);
  if (!r.empty()) {
    AT_DISPATCH_FLOATING_TYPES(change.scalar_type(), "lstm_path", [&] { run<scalar_t>(r); });
  }
  return {r.G, r.S, r.slope};
}

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CUDA, m) { m.impl("lstm_path", &lstm_path_on_cuda); }

}  // namespace xaifast
