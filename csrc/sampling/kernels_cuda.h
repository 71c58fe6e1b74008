// The launchers of the CUDA kernels: the contract of each is that of the CPU kernel of the same
// name, in the header of its file, with all pointers on the current device. They return after the
// launch, with its error; the work is done in the order of the stream. An empty input launches
// nothing. T is float, double, __nv_bfloat16 or __half. Deterministic: no atomics.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "sampling/accumulate_rows.h"
#include "sampling/add_noise.h"
#include "sampling/mask_segments.h"
#include "sampling/occlude_windows.h"
#include "sampling/path_points.h"
#include "sampling/scatter_windows.h"
#include "sampling/segment_sums.h"

namespace xaifast {

template <class T>
cudaError_t path_points_cuda(const T* x, const T* baseline, const std::int64_t* sample,
                             const double* alpha, T* out, BatchShape shape, bool relu,
                             cudaStream_t stream);

template <class G, class C>
cudaError_t accumulate_rows_cuda(const G* g, const std::int64_t* sample, const double* weight,
                                 C* total, BatchShape shape, cudaStream_t stream);

template <class T>
cudaError_t add_noise_cuda(const T* x, const std::int64_t* sample, const std::int64_t* draw,
                           const double* std, T* out, const NoiseShape& shape, cudaStream_t stream);

template <class Word>
cudaError_t occlude_windows_cuda(const Word* x, const Word* baseline, Word* out,
                                 const OccludeShape& shape, cudaStream_t stream);

template <class T>
cudaError_t scatter_windows_cuda(const T* scores, T* out, const ScatterShape& shape,
                                 cudaStream_t stream);

template <class Word>
cudaError_t mask_segments_cuda(const Word* x, const Word* baseline, const std::int64_t* labels,
                               const std::uint8_t* on, const std::int64_t* sample, Word* out,
                               const MaskShape& shape, cudaStream_t stream);

// order, ends and the steps between their rows: segment_sums_element.h.
template <class T>
cudaError_t segment_sums_cuda(const T* x, const std::int64_t* order, const std::int64_t* ends,
                              double* out, const SegmentShape& shape, std::int64_t row_sample_step,
                              std::int64_t row_channel_step, cudaStream_t stream);

}  // namespace xaifast
