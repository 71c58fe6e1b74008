// The launcher of the CUDA kernel. It returns after the launch, with its error; the work is done in
// the order of the stream.
#pragma once

#include <cuda_runtime_api.h>

#include "fingerprint/fingerprint.h"

namespace xaifast {

// hash[i] += the hash of tensors[i] (fingerprint.h) for i < count. tensors is memory of the host,
// read before the call returns; what it points to and hash [count] are on the current device.
cudaError_t fingerprint_cuda(const Bytes* tensors, std::int64_t count, std::uint64_t* hash,
                             cudaStream_t stream);

}  // namespace xaifast
