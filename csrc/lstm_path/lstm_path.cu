#include <cuda_runtime.h>

#include "lstm_path/kernels_cuda.h"
#include "lstm_path/lstm_path_steps.h"

namespace xaifast {
namespace {

constexpr int kResident = 2;  // blocks that shall fit into one multiprocessor: bounds the registers

// threadIdx.x is the lane of a warp, threadIdx.y the unit.
struct CudaBlock {
  __device__ std::int64_t lane() const { return threadIdx.x; }
  __device__ std::int64_t lanes() const { return kCudaLanes; }
  __device__ std::int64_t unit() const { return threadIdx.y; }
  __device__ std::int64_t units() const { return kCudaUnits; }
  __device__ void sync() const { __syncthreads(); }
  __device__ double add(double x) const {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
  }
};

template <class T>
__global__ void __launch_bounds__(kCudaLanes* kCudaUnits, kResident)
    run_parts(const __grid_constant__ LstmBatch<T> batch, std::int64_t n, std::int64_t work_size,
              T* work, double* slopes, double* sums, double* S, double* slope) {
  const LstmShape& p = batch.shape;
  const std::int64_t item = blockIdx.x, sample = n + item / batch.parts;
  __shared__ LstmPath<T> path;  // pointers that would fill the registers of each thread
  if (threadIdx.x == 0 && threadIdx.y == 0) path = batch.path(sample);
  __syncthreads();
  lstm_path_with(CudaBlock{}, batch, path, item % batch.parts, work + item * work_size,
                 slopes + item * p.targets * kCudaUnits * kCudaLanes,
                 sums + item * p.targets * p.steps * p.gates(), S + sample * p.nodes,
                 slope + sample * p.nodes);
}

}  // namespace

template <class T>
cudaError_t lstm_path_cuda(const LstmBatch<T>& batch, std::int64_t n, std::int64_t count, T* work,
                           double* slopes, double* sums, double* S, double* slope,
                           cudaStream_t stream) {
  const std::int64_t items = count * batch.parts;
  if (items == 0) return cudaSuccess;
  const dim3 threads(kCudaLanes, kCudaUnits);
  run_parts<<<static_cast<unsigned>(items), threads, 0, stream>>>(
      batch, n, lstm_path_work(batch.shape, kCudaLanes), work, slopes, sums, S, slope);
  return cudaGetLastError();
}

#define XAI_INSTANTIATE(T)                                                                    \
  template cudaError_t lstm_path_cuda<T>(const LstmBatch<T>&, std::int64_t, std::int64_t, T*, \
                                         double*, double*, double*, double*, cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
