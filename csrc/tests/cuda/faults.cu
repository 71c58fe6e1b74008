// Kernels with one fault each, for test_emulation.cpp: it expects a report of the kind, and of the
// a line that says "here: name".
#include <cuda_runtime.h>

#include <cstring>

#include "common/pack.h"
#include "common/ptx.h"
#include "tests/cuda/faults.h"

namespace xaifast {
namespace {

// A sum over the block, as kernels here do it.
__global__ void missing_barrier(FaultCase c) {
  __shared__ float sums[128];
  const int lane = static_cast<int>(threadIdx.x), lanes = static_cast<int>(blockDim.x);
  sums[lane] = c.x[lane];
  __syncthreads();
  for (int half = lanes / 2; half > 0; half /= 2) {
    if (lane < half) sums[lane] += sums[lane + half];  // here: missing_barrier
    if (!c.planted) __syncthreads();
  }
  c.y[lane] = c.x[lane] + (lane == 0 ? sums[0] : 0);
}

// Lanes of one warp hand numbers over in shared memory; a shuffle does not order memory.
__global__ void missing_warp_barrier(FaultCase c) {
  __shared__ float shown[128];
  const unsigned t = threadIdx.x;
  shown[t] = c.x[t];
  const float other = __shfl_xor_sync(~0u, c.x[t], 1);
  if (!c.planted) __syncwarp();
  c.y[t] = shown[t ^ 1] + other;  // here: missing_warp_barrier
}

// The next round writes what others may still read.
__global__ void missing_second_barrier(FaultCase c) {
  __shared__ float shown[128];
  const unsigned t = threadIdx.x;
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    shown[t] = c.x[t] + static_cast<float>(round);  // here: missing_second_barrier
    __syncthreads();
    sum += shown[blockDim.x - 1 - t];
    if (!c.planted) __syncthreads();
  }
  c.y[t] = sum;
}

__global__ void two_writers(FaultCase c) {
  const unsigned t = threadIdx.x;
  c.y[c.planted ? t / 2 : t] = c.x[t];  // here: two_writers
}

__global__ void two_blocks(FaultCase c) {
  const unsigned t = threadIdx.x + (c.planted ? 0 : blockIdx.x * blockDim.x);
  c.y[t] = c.x[t];  // here: two_blocks
}

// One thread fewer writes than reads.
__global__ void unwritten_shared(FaultCase c) {
  __shared__ float shown[128];
  const unsigned t = threadIdx.x;
  if (!c.planted || t != 5) shown[t] = c.x[t];
  __syncthreads();
  c.y[t] = shown[blockDim.x - 1 - t];  // here: unwritten_shared
}

__global__ void unwritten_output(FaultCase c) {
  const unsigned t = threadIdx.x;
  if (!c.planted) c.y[t] = 0;
  c.y[t] += c.x[t];  // here: unwritten_output
}

__global__ void read_behind(FaultCase c) {
  const unsigned t = threadIdx.x;
  c.y[t] = c.x[c.planted ? t + 1 : t];  // here: read_behind
}

// The mask of the tail is missing.
__global__ void write_behind(FaultCase c) {
  for (std::int64_t i = threadIdx.x; i < c.n + (c.planted ? 1 : 0); i += blockDim.x) {
    c.y[i] = 1;  // here: write_behind
  }
}

__global__ void behind_shared(FaultCase c) {
  __shared__ float first[128];
  __shared__ float second[128];
  const unsigned t = threadIdx.x;
  first[t] = c.x[t];
  second[c.planted ? t + 128 - blockDim.x + 1 : t] = c.x[t];  // here: behind_shared
  __syncthreads();
  c.y[t] = first[t] + (c.planted ? 0 : second[t]);
}

__global__ void write_input(FaultCase c) {
  const unsigned t = threadIdx.x;
  float* const to = c.planted ? const_cast<float*>(c.x) : c.y;
  to[t] = 1;  // here: write_input
  c.y[t] = 1;
}

__global__ void barrier_in_branch(FaultCase c) {
  const unsigned t = threadIdx.x;
  if (!c.planted || t < 40) __syncthreads();  // here: barrier_in_branch
  c.y[t] = c.x[t];
}

__global__ void two_barriers(FaultCase c) {
  const unsigned t = threadIdx.x;
  if (c.planted && t < 40) {
    __syncthreads();  // here: two_barriers
  } else {
    __syncthreads();
  }
  c.y[t] = c.x[t];
}

__global__ void wrong_mask(FaultCase c) {
  const unsigned t = threadIdx.x, mask = c.planted ? 0xffffu : ~0u;
  c.y[t] = __shfl_xor_sync(mask, c.x[t], 1);  // here: wrong_mask
}

__global__ void lane_outside_of_mask(FaultCase c) {
  const unsigned t = threadIdx.x;
  float x = c.x[t];
  if (t % 32 < 16)
    x = __shfl_xor_sync(0xffffu, x, c.planted ? 16 : 8);  // here: lane_outside_of_mask
  c.y[t] = x;
}

// Lanes that have left are in the mask.
__global__ void left_lanes(FaultCase c) {
  const unsigned t = threadIdx.x;
  c.y[t] = c.x[t];
  if (c.planted && t % 32 >= 20) return;
  c.y[t] = __shfl_xor_sync(~0u, c.x[t], 1);  // here: left_lanes
}

__global__ void copy_without_wait(FaultCase c) {
  __shared__ alignas(16) float to[128];
  const unsigned t = threadIdx.x;
  if (t % 4 == 0) copy_async_16(to + t, c.x + t, true);
  copy_async_commit();
  if (!c.planted) copy_async_wait<0>();
  __syncthreads();
  c.y[t] = to[t];  // here: copy_without_wait
}

// Only the thread that copied may look before a barrier.
__global__ void copy_without_barrier(FaultCase c) {
  __shared__ alignas(16) float to[128];
  const unsigned t = threadIdx.x;
  to[t] = 0;
  __syncthreads();
  if (t % 4 == 0) copy_async_16(to + t, c.x + t, true);  // here: copy_without_barrier
  copy_async_commit();
  copy_async_wait<0>();
  if (!c.planted) __syncthreads();
  c.y[t] = to[t ^ 1];  // here: copy_without_barrier
}

// The copy of the next round may land before others have read.
__global__ void copy_too_early(FaultCase c) {
  __shared__ alignas(16) float to[128];
  const unsigned t = threadIdx.x;
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    if (!c.planted) __syncthreads();
    if (t % 4 == 0) copy_async_16(to + t, c.x + t, true);  // here: copy_too_early
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    sum += to[t ^ 5];  // here: copy_too_early
  }
  c.y[t] = sum;
}

__global__ void misaligned_pack(FaultCase c) {
  const unsigned t = threadIdx.x;
  if (t >= 4) c.y[t] = 0;
  if (t > 0) return;
  const auto* const p = reinterpret_cast<const Pack<float, 4>*>(c.x + (c.planted ? 1 : 0));
  const Pack<float, 4> pack = *p;  // here: misaligned_pack
  for (int i = 0; i < 4; ++i) c.y[i] = pack.v[i];
}

__global__ void index_overflow(FaultCase c) {
  const int t = static_cast<int>(threadIdx.x), rows = c.planted ? 70000 : 1;
  c.y[t] = rows * (rows + t) == 1 ? 1.0f : 2.0f;  // here: index_overflow
}

__global__ void __launch_bounds__(32) many_threads(FaultCase c) { c.y[threadIdx.x] = 1; }

__global__ void never_run(FaultCase c) { c.y[0] = 0; }

__global__ void shuffles(const int* x, int* y) {
  const int t = static_cast<int>(threadIdx.x), mine = x[t];
  y[t * 8] = __shfl_sync(~0u, mine, 3);
  y[t * 8 + 1] = __shfl_sync(~0u, mine, 9, 8);
  y[t * 8 + 2] = __shfl_up_sync(~0u, mine, 2);
  y[t * 8 + 3] = __shfl_down_sync(~0u, mine, 5, 16);
  y[t * 8 + 4] = static_cast<int>(__ballot_sync(~0u, mine % 3 == 0));
  y[t * 8 + 5] = __any_sync(~0u, mine == 40);
  y[t * 8 + 6] = __all_sync(~0u, mine < 32);
  y[t * 8 + 7] = mine;
  if (t % 2 == 0) y[t * 8 + 7] = __shfl_xor_sync(0x55555555u, mine, 2);
}

__global__ void counters(int* counts, float* sum) {
  atomicAdd(&counts[threadIdx.x % 4], 1);
  atomicMax(&counts[4], static_cast<int>(threadIdx.x));
  atomicAdd(sum, 0.5f);
}

__global__ void order(int* order, int* next) { order[threadIdx.x] = atomicAdd(next, 1); }

__global__ void places(unsigned* y) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  y[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 100 + thread;
}

__global__ void sized() {
  extern __shared__ float memory[];
  __shared__ float more[1024];
  memory[threadIdx.x] = more[threadIdx.x] = 0;
}

}  // namespace

cudaError_t run_fault(const char* name, const FaultCase& c) {
#define XAI_FAULT(kernel)                \
  if (std::strcmp(name, #kernel) == 0) { \
    kernel<<<1, c.threads, 0, 0>>>(c);   \
    return cudaGetLastError();           \
  }
  XAI_FAULT(missing_barrier)
  XAI_FAULT(missing_warp_barrier)
  XAI_FAULT(missing_second_barrier)
  XAI_FAULT(two_writers)
  XAI_FAULT(unwritten_shared)
  XAI_FAULT(unwritten_output)
  XAI_FAULT(read_behind)
  XAI_FAULT(write_behind)
  XAI_FAULT(behind_shared)
  XAI_FAULT(write_input)
  XAI_FAULT(barrier_in_branch)
  XAI_FAULT(two_barriers)
  XAI_FAULT(wrong_mask)
  XAI_FAULT(lane_outside_of_mask)
  XAI_FAULT(left_lanes)
  XAI_FAULT(copy_without_wait)
  XAI_FAULT(copy_without_barrier)
  XAI_FAULT(copy_too_early)
  XAI_FAULT(misaligned_pack)
  XAI_FAULT(index_overflow)
  XAI_FAULT(many_threads)
#undef XAI_FAULT
  if (std::strcmp(name, "two_blocks") != 0) return cudaErrorInvalidValue;
  two_blocks<<<2, c.threads / 2, 0, nullptr>>>(c);
  return cudaGetLastError();
}

cudaError_t shuffles_cuda(const int* x, int* y) {
  shuffles<<<1, 64>>>(x, y);
  return cudaGetLastError();
}
cudaError_t counters_cuda(int* counts, float* sum, int blocks) {
  counters<<<blocks, 96>>>(counts, sum);
  return cudaGetLastError();
}
cudaError_t order_cuda(int* places, int* next) {
  order<<<1, 64>>>(places, next);
  return cudaGetLastError();
}
cudaError_t places_cuda(unsigned* y) {
  places<<<dim3(2, 3, 2), dim3(3, 2, 4)>>>(y);
  return cudaGetLastError();
}
cudaError_t sized_cuda(dim3 grid, dim3 block, std::size_t shared) {
  sized<<<grid, block, shared>>>();
  return cudaGetLastError();
}
void launch_never() { never_run<<<1, 1>>>(FaultCase{}); }

}  // namespace xaifast
