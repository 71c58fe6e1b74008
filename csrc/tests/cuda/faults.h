// The launchers of faults.cu, in the order of their names below.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace xaifast {

// One block of `threads` threads of the kernel of a fault, or of what it would be without (where
// `planted` is false). x [n] is read, y [n] is written.
struct FaultCase {
  bool planted;
  unsigned threads;
  std::int64_t n;
  const float* x;
  float* y;
};
cudaError_t run_fault(const char* name, const FaultCase& c);

// What works.
cudaError_t shuffles_cuda(const int* x, int* y);                 // 64 threads, y [64, 8]
cudaError_t counters_cuda(int* counts, float* sum, int blocks);  // 96 threads each
cudaError_t order_cuda(int* order, int* next);                   // of 64 threads
cudaError_t places_cuda(unsigned* y);                            // grid (2, 3, 2), block (3, 2, 4)
cudaError_t sized_cuda(dim3 grid, dim3 block, std::size_t shared);
void launch_never();

}  // namespace xaifast
