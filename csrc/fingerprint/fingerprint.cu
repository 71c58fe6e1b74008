#include <cuda_runtime.h>

#include <algorithm>

#include "common/grid.h"
#include "fingerprint/kernels_cuda.h"
#include "fingerprint/lane.h"

namespace xaifast {
namespace {

// Tensors of one launch: as many as fit into 4 KiB of arguments, so that nothing is copied to the
// device before it.
constexpr int kTogether = 128;

struct Batch {
  int count;
  Bytes tensors[kTogether];
  std::int64_t chunks[kTogether];  // up to and with each tensor
};

__device__ int tensor_of(const Batch& batch, std::int64_t chunk) {
  int low = 0, high = batch.count - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (chunk < batch.chunks[middle]) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// A block for each chunk, a thread for each lane.
__global__ void __launch_bounds__(kHashLanes)
    hash_chunks(const __grid_constant__ Batch batch, std::uint64_t* hash) {
  __shared__ std::uint64_t sums[kHashLanes];
  const int lane = static_cast<int>(threadIdx.x);
  for (std::int64_t c = blockIdx.x; c < batch.chunks[batch.count - 1]; c += gridDim.x) {
    const int i = tensor_of(batch, c);
    const std::int64_t first = i == 0 ? 0 : batch.chunks[i - 1];
    sums[lane] = hash_lane(batch.tensors[i], c - first, lane);
    __syncthreads();
    for (int half = kHashLanes / 2; half > 0; half /= 2) {
      if (lane < half) sums[lane] += sums[lane + half];
      __syncthreads();
    }
    if (lane == 0) {  // a sum of integers is the same in any order
      atomicAdd(reinterpret_cast<unsigned long long*>(hash + i), sums[0]);
    }
    __syncthreads();
  }
}

}  // namespace

cudaError_t fingerprint_cuda(const Bytes* tensors, std::int64_t count, std::uint64_t* hash,
                             cudaStream_t stream) {
  for (std::int64_t begin = 0; begin < count; begin += kTogether) {
    Batch batch;
    batch.count = static_cast<int>(std::min<std::int64_t>(count - begin, kTogether));
    std::int64_t chunks = 0;
    for (int i = 0; i < batch.count; ++i) {
      batch.tensors[i] = tensors[begin + i];
      batch.chunks[i] = chunks += batch.tensors[i].chunks();
    }
    if (chunks == 0) continue;
    const auto blocks = static_cast<unsigned>(std::min(chunks, kMaxBlocks));
    hash_chunks<<<blocks, kHashLanes, 0, stream>>>(batch, hash + begin);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace xaifast
