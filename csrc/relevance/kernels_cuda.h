// The launchers of the CUDA kernels: the contract of each is that of the CPU kernel of the same
// name, in the header of its file, with all pointers on the current device. They return after the
// launch, with its error; the work is done in the order of the stream. An empty input launches
// nothing. T is float, double, __nv_bfloat16 or __half. Deterministic: no atomics.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "relevance/add_split.h"
#include "relevance/multiply_parts.h"
#include "relevance/pool_redistribute.h"
#include "relevance/stabilized_divide.h"

namespace xaifast {

template <class T>
cudaError_t stabilized_divide_cuda(const T* R, const T* z, const T* b, T* s, DivideShape shape,
                                   double eps, cudaStream_t stream);

template <class T>
cudaError_t multiply_parts_cuda(const T* u, const T* c, T* R, PartsShape shape,
                                cudaStream_t stream);

template <class T>
cudaError_t split_signs_cuda(const T* a, T* u, std::int64_t outer, std::int64_t inner,
                             cudaStream_t stream);

template <class T>
cudaError_t add_split_cuda(const T* x, const T* y, const T* R, T* Rx, T* Ry, SumShape shape,
                           cudaStream_t stream);

template <class T>
cudaError_t pool_redistribute_cuda(const T* a, const T* R, T* r, const PoolShape& shape,
                                   PoolRule rule, double eps, cudaStream_t stream);

}  // namespace xaifast
