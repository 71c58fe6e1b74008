// The fingerprint of CPU tensors: threads over the chunks of all of them.
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "common/threads.h"
#include "fingerprint/ops.h"

namespace xaifast {
namespace {

struct Cpu {
  static std::vector<std::uint64_t> hash(const std::vector<at::Tensor>& tensors) {
    std::vector<Bytes> bytes;
    std::vector<std::int64_t> first{0};  // chunk of each tensor, and their number
    for (const at::Tensor& x : tensors) {
      bytes.push_back(bytes_of(x));
      first.push_back(first.back() + bytes.back().chunks());
    }
    std::vector<std::uint64_t> parts(static_cast<std::size_t>(first.back()));
    share(first.back(), kHashChunk / kHashWord, [&](std::int64_t begin, std::int64_t end) {
      auto i = std::upper_bound(first.begin(), first.end(), begin) - first.begin() - 1;
      for (std::int64_t c = begin; c < end; ++c) {
        while (c >= first[i + 1]) ++i;
        parts[c] = hash_chunk(bytes[i], c - first[i]);
      }
    });
    std::vector<std::uint64_t> hashes(bytes.size());
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      for (std::int64_t c = first[i]; c < first[i + 1]; ++c) hashes[i] += parts[c];
    }
    return hashes;
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { FingerprintOp<Cpu>::add_to(m); }

}  // namespace xaifast
