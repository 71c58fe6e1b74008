// The launchers of the CUDA kernels: the contract of each is that of the CPU kernel of the same
// name, in the header of its file, with all pointers on the current device. They return after the
// launch, with its error; the work is done in the order of the stream. T is float, double,
// __nv_bfloat16 or __half.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "windows/cut_boxes.h"

namespace xaifast {

template <class T>
cudaError_t cut_boxes_cuda(const T* x, const T* box, const std::int64_t* origin,
                           const std::int64_t* start, T* out, const BoxShape& shape, double fill,
                           cudaStream_t stream);

}  // namespace xaifast
