// Numbers of every type on the host and on the device, and the 32-bit words that tensor cores take
// them in: one float32 or two 16-bit numbers.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include <cstdint>
#include <cstring>

#include "common/floats.h"
#include "common/stabilizer.h"

namespace xaifast {

// Widening is exact, narrowing rounds to nearest even.
template <class T>
XAI_HOST_DEVICE inline Compute<T> widen(T x) {
  return static_cast<Compute<T>>(x);
}
template <class T>
XAI_HOST_DEVICE inline T narrow(Compute<T> x) {
  return static_cast<T>(x);
}

#ifdef __CUDACC__
// By name: PyTorch's flags take the conversion operators of CUDA's 16-bit types away.
template <>
__host__ __device__ inline float widen<__nv_bfloat16>(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
template <>
__host__ __device__ inline float widen<__half>(__half x) {
  return __half2float(x);
}
template <>
__host__ __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16(x);
}
template <>
__host__ __device__ inline __half narrow<__half>(float x) {
  return __float2half(x);
}
#endif

using Word = std::uint32_t;

template <class T>
inline constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));

template <class T>
struct alignas(Word) Numbers {
  T v[kPerWord<T>];

  XAI_HOST_DEVICE explicit Numbers(Word word) {
    memcpy(static_cast<void*>(v), &word, sizeof(word));
  }
  XAI_HOST_DEVICE Word word() const {
    Word word;
    memcpy(&word, static_cast<const void*>(v), sizeof(word));
    return word;
  }
};

}  // namespace xaifast
