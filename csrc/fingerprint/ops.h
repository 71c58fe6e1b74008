// The fingerprint on any device: what memory a tensor has, and how its layout enters the hash. A
// Backend is a struct with a static function that hashes the bytes. Contract: library.cpp.
#pragma once

#include <torch/library.h>

#include <vector>

#include "common/tensors.h"
#include "fingerprint/fingerprint.h"

namespace xaifast {

inline Bytes bytes_of(const at::Tensor& x) {
  return {static_cast<const unsigned char*>(x.const_data_ptr()),
          static_cast<std::int64_t>(x.nbytes())};
}

// The same numbers in another order of axes are another tensor. The stride of an axis of size 1
// says nothing.
inline std::uint64_t with_layout(std::uint64_t hash, const at::Tensor& x) {
  hash = hash_step(hash, static_cast<std::uint64_t>(x.nbytes()));
  for (std::int64_t d = 0; d < x.dim(); ++d) {
    hash = hash_step(hash, static_cast<std::uint64_t>(x.size(d)));
    if (x.size(d) != 1) hash = hash_step(hash, static_cast<std::uint64_t>(x.stride(d)));
  }
  return hash_mix(hash);
}

template <class Backend>
struct FingerprintOp {
  static std::vector<std::int64_t> fingerprint(at::TensorList tensors) {
    std::vector<at::Tensor> dense;
    for (const at::Tensor& x : tensors) {
      TORCH_CHECK_VALUE(x.device() == tensors[0].device(),
                        "fingerprint: all tensors must be on one device (", tensors[0].device(),
                        "), got ", x.device());
      TORCH_CHECK_TYPE(x.layout() == at::kStrided, "fingerprint: tensors must be strided, got ",
                       x.layout());
      dense.push_back(x.is_non_overlapping_and_dense() ? x : x.contiguous());
    }
    std::vector<std::uint64_t> hashes = Backend::hash(dense);
    std::vector<std::int64_t> result;
    for (std::size_t i = 0; i < dense.size(); ++i) {
      result.push_back(static_cast<std::int64_t>(with_layout(hashes[i], dense[i])));
    }
    return result;
  }

  static void add_to(torch::Library& m) { m.impl("fingerprint", &fingerprint); }
};

}  // namespace xaifast
