// How the CUDA glue launches a kernel: on the current stream of the tensor's device. Knows PyTorch;
// see tensors.h. Compiled by the host compiler.
#pragma once

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "common/tensors.h"

namespace xaifast {

// Launches f.operator()<T>(stream) on the device of x.
template <class F>
void run(const char* op, const at::Tensor& x, const F& f) {
  const c10::cuda::CUDAGuard guard(x.device());
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  cudaError_t error = cudaSuccess;
  dispatch<__nv_bfloat16, __half>(x, [&]<class T>() { error = f.template operator()<T>(stream); });
  TORCH_CHECK(error == cudaSuccess, op,
              ": the CUDA kernel could not be launched: ", cudaGetErrorString(error));
}

}  // namespace xaifast
