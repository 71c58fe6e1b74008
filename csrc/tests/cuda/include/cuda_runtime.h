// CUDA C++ for kernels, on the emulated device. Translated sources only; see emulation.h.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __grid_constant__
#define __launch_bounds__(...)

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

// A call of these is where the report says that it is.
#define XAI_WHERE emulation::Where where = emulation::Where::current()

inline void __syncthreads(XAI_WHERE) { emulation::barrier(where); }
inline void __syncwarp(std::uint32_t mask = ~0u, XAI_WHERE) {
  emulation::warp_barrier(mask, where);
}

template <class T>
T __shfl_sync(std::uint32_t mask, T x, int source, int width = 32, XAI_WHERE) {
  return emulation::shuffle(
      "__shfl_sync", mask, x, width,
      [=](int) { return static_cast<int>(static_cast<unsigned>(source) % unsigned(width)); },
      where);
}
template <class T>
T __shfl_xor_sync(std::uint32_t mask, T x, int lanes, int width = 32, XAI_WHERE) {
  return emulation::shuffle(
      "__shfl_xor_sync", mask, x, width, [=](int me) { return me ^ lanes; }, where);
}
template <class T>
T __shfl_up_sync(std::uint32_t mask, T x, unsigned by, int width = 32, XAI_WHERE) {
  return emulation::shuffle(
      "__shfl_up_sync", mask, x, width, [=](int me) { return me - static_cast<int>(by); }, where);
}
template <class T>
T __shfl_down_sync(std::uint32_t mask, T x, unsigned by, int width = 32, XAI_WHERE) {
  return emulation::shuffle(
      "__shfl_down_sync", mask, x, width, [=](int me) { return me + static_cast<int>(by); }, where);
}

inline std::uint32_t __ballot_sync(std::uint32_t mask, int x, XAI_WHERE) {
  return emulation::ballot("__ballot_sync", mask, x != 0, where);
}
inline int __any_sync(std::uint32_t mask, int x, XAI_WHERE) {
  return emulation::ballot("__any_sync", mask, x != 0, where) != 0;
}
inline int __all_sync(std::uint32_t mask, int x, XAI_WHERE) {
  return emulation::ballot("__all_sync", mask, x == 0, where) == 0;
}

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> x, XAI_WHERE) {
  return emulation::atomic(p, [=](T was) { return was + x; }, where);
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> x, XAI_WHERE) {
  return emulation::atomic(p, [=](T was) { return was > x ? was : x; }, where);
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> x, XAI_WHERE) {
  return emulation::atomic(p, [=](T was) { return was < x ? was : x; }, where);
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> x, XAI_WHERE) {
  return emulation::atomic(p, [=](T) { return x; }, where);
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> compare, std::type_identity_t<T> x, XAI_WHERE) {
  return emulation::atomic(p, [=](T was) { return was == compare ? x : was; }, where);
}
#undef XAI_WHERE

template <class T>
T __ldg(const T* p) {
  return *p;
}

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline std::uint64_t __umul64hi(std::uint64_t a, std::uint64_t b) {
  return static_cast<std::uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline std::uint32_t __umulhi(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::uint32_t>((std::uint64_t{a} * b) >> 32);
}
inline int __popc(std::uint32_t x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }

using std::exp;
using std::fabs;
using std::fma;
using std::log;
using std::sqrt;
using std::tanh;
