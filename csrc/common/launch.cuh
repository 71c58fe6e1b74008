// Runs an element (see grid.h) on a CUDA stream.
#pragma once

#include <cuda_runtime.h>

#include "common/grid.h"

namespace xaifast {

template <int W, class Element>
__global__ void __launch_bounds__(kThreads, Element::kResident) run_grid(const Element element) {
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  run_thread<W>(element, thread, threads, blockIdx.y, gridDim.y);
}

// An empty element launches nothing. The error is that of the launch; kernels run asynchronously.
template <int W, class Element>
cudaError_t launch(const Element& element, cudaStream_t stream) {
  if (element.size() == 0 || element.targets() == 0) return cudaSuccess;
  const Grid grid = grid_for(element.size() / W, element.targets());
  const dim3 blocks(static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.rows));
  run_grid<W><<<blocks, kThreads, 0, stream>>>(element);
  return cudaGetLastError();
}

// The same in packs where the element allows them.
template <int W, class Element>
cudaError_t launch_packs(const Element& element, cudaStream_t stream) {
  return element.packs() ? launch<W>(element, stream) : launch<1>(element, stream);
}

}  // namespace xaifast
