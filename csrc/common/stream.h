// How the CUDA glue launches a kernel: on the current stream of the tensor's device. Knows PyTorch;
// see tensors.h. Compiled by the host compiler.
#pragma once

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "common/tensors.h"

namespace xaifast {

// Launches f(stream) on the device of x.
template <class F>
void launch_on(const char* op, const at::Tensor& x, const F& f) {
  const c10::cuda::CUDAGuard guard(x.device());
  const cudaError_t error = f(static_cast<cudaStream_t>(c10::cuda::getCurrentCUDAStream()));
  TORCH_CHECK(error == cudaSuccess, op,
              ": the CUDA kernel could not be launched: ", cudaGetErrorString(error));
}

// The same with f.operator()<T>(stream), T the number type of x.
template <class F>
void run(const char* op, const at::Tensor& x, const F& f) {
  dispatch<__nv_bfloat16, __half>(x, [&]<class T>() {
    launch_on(op, x, [&](cudaStream_t stream) { return f.template operator()<T>(stream); });
  });
}

// The same for kernels that only copy; see dispatch_words.
template <class F>
void run_words(const char* op, const at::Tensor& x, const F& f) {
  dispatch_words(x, [&]<class Word>() {
    launch_on(op, x, [&](cudaStream_t stream) { return f.template operator()<Word>(stream); });
  });
}

}  // namespace xaifast
