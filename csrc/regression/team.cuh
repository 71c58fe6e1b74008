// A thread block of CUDA as a team: its warps are the workers.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "regression/team.h"

namespace xaifast {

inline constexpr int kLanes = 32;
inline constexpr int kBlockThreads = 8 * kLanes;
inline constexpr int kBlocks = 2;  // that shall fit into one multiprocessor: bounds the registers

struct BlockLanes {
  __device__ static int worker() { return threadIdx.x / kLanes; }
  __device__ static int workers() { return blockDim.x / kLanes; }
  __device__ static int lane() { return threadIdx.x % kLanes; }
  __device__ static int lanes() { return kLanes; }
  __device__ static void sync() { __syncwarp(); }
  __device__ static void barrier() { __syncthreads(); }

  // By exchange in pairs, so that every lane adds the same numbers in the same order.
  __device__ static double add(double x) {
    for (int apart = kLanes / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
    return x;
  }
  __device__ static double most(double x) {
    for (int apart = kLanes / 2; apart > 0; apart /= 2) {
      const double other = __shfl_xor_sync(~0u, x, apart);
      x = other > x ? other : x;
    }
    return x;
  }
};

struct Block : LaneTeam<BlockLanes> {
  // value = make() for a variable in shared memory: pointers that many threads need and that would
  // fill the registers of each.
  template <class V, class F>
  __device__ void share_value(V& value, const F& make) const {
    __syncthreads();
    if (threadIdx.x == 0) value = make();
    __syncthreads();
  }
};

// Blocks that go round over more items than CUDA allows blocks.
inline unsigned blocks_for(std::int64_t items) {
  return static_cast<unsigned>(std::min<std::int64_t>(items, 1 << 30));
}

}  // namespace xaifast
