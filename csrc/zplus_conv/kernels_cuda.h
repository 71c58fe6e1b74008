// The launchers of the CUDA kernels: contract in conv.h, all pointers on the current device. They
// return after the launch, with its error; the work is done in the order of the stream. An empty
// input launches nothing. They write s and r.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "zplus_conv/conv.h"

namespace xaifast {

// Implicit matrix products (tile.h) for kAll, kPositive and kNegative where fits_tiles(p). On
// tensor cores, T is float (rounded to tf32), __nv_bfloat16 or __half; else float.
template <class T>
cudaError_t conv_tensor_cores_cuda(const ConvShape& p, const ConvTensors<T>& x, double eps,
                                   cudaStream_t stream);
cudaError_t conv_tiles_cuda(const ConvShape& p, const ConvTensors<float>& x, double eps,
                            cudaStream_t stream);

// First layers (pixels.h): one group, channels <= kPixelChannels, where pixels_fit(p); T is float,
// __nv_bfloat16 or __half.
template <class T>
cudaError_t conv_pixels_cuda(const ConvShape& p, const ConvTensors<T>& x, double eps,
                             cudaStream_t stream);

}  // namespace xaifast
