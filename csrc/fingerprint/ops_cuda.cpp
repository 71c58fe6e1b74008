// The fingerprint of CUDA tensors: the hashes are waited for, as they are numbers of the host.
// Compiled by the host compiler; the kernel is in the .cu file.
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <vector>

#include "common/stream.h"
#include "fingerprint/kernels_cuda.h"
#include "fingerprint/ops.h"

namespace xaifast {
namespace {

struct Cuda {
  static std::vector<std::uint64_t> hash(const std::vector<at::Tensor>& tensors) {
    std::vector<Bytes> bytes;
    for (const at::Tensor& x : tensors) bytes.push_back(bytes_of(x));
    const auto count = static_cast<std::int64_t>(bytes.size());
    const at::Tensor sums = at::zeros({count}, tensors[0].options().dtype(at::kLong));
    launch_on("fingerprint", sums, [&](cudaStream_t stream) {
      return fingerprint_cuda(bytes.data(), count, out<std::uint64_t>(sums), stream);
    });
    const at::Tensor here = sums.cpu();
    const auto* first = in<std::uint64_t>(here);
    return {first, first + count};
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CUDA, m) { FingerprintOp<Cuda>::add_to(m); }

}  // namespace xaifast
