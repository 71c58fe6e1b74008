// The launcher of the CUDA kernel; all pointers on the current device. It returns after the launch,
// with its error; the work is done in the order of the stream. T is float or double. Deterministic:
// no atomics.
#pragma once

#include <cuda_runtime_api.h>

#include "lstm_path/lstm_path.h"

namespace xaifast {

inline constexpr std::int64_t kCudaLanes = 32;  // a warp: nodes that go together
inline constexpr std::int64_t kCudaUnits = 8;

// Samples [n, n + count) of a batch whose lanes are kCudaLanes; each part has its block, with work
// [lstm_path_work] and slopes [M, kCudaUnits, kCudaLanes]. sums [count, parts, M, T, 4H] is added
// to; S and slope [M, N, K] of the batch are written.
template <class T>
cudaError_t lstm_path_cuda(const LstmBatch<T>& batch, std::int64_t n, std::int64_t count, T* work,
                           double* slopes, double* sums, double* S, double* slope,
                           cudaStream_t stream);

}  // namespace xaifast
