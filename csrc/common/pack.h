// Loads and stores of W neighbouring numbers at once, on the host and on the device. In memory they
// are T, in registers Compute<T>. W = 1 is the plain scalar; 16 bytes are the widest load of a GPU.
#pragma once

#include <cstdint>

#include "common/floats.h"
#include "common/numbers.h"
#include "common/ptx.h"
#include "common/stabilizer.h"

// XAI_UNROLL(n) before a loop unrolls it n times on the device. XAI_NO_UNROLL is for loops over
// targets: mostly there is one, and unrolling would cost registers.
#ifdef __CUDACC__
#define XAI_PRAGMA(text) _Pragma(#text)
#define XAI_UNROLL(n) XAI_PRAGMA(unroll n)
#else
#define XAI_UNROLL(n)
#endif
#define XAI_NO_UNROLL XAI_UNROLL(1)

namespace xaifast {

inline constexpr int kPackBytes = 16;

// Numbers of type T in one pack.
template <class T>
inline constexpr int kPackWidth = kPackBytes / static_cast<int>(sizeof(T));

template <class T, int W>
struct alignas(sizeof(T) * W) Pack {
  T v[W];
};

// p must be aligned to W numbers.
template <int W, class T>
XAI_HOST_DEVICE inline Pack<T, W> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, W>*>(p);
}

template <int W, class T>
XAI_HOST_DEVICE inline void store_pack(T* p, const Pack<T, W>& pack) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(pack) == sizeof(uint4)) return store_16_bytes(p, &pack);
#endif
  *reinterpret_cast<Pack<T, W>*>(p) = pack;
}

template <int W, class T>
XAI_HOST_DEVICE inline void load(const T* p, Compute<T> (&x)[W]) {
  const auto pack = load_pack<W>(p);
  for (int w = 0; w < W; ++w) x[w] = widen<T>(pack.v[w]);
}

template <int W, class T>
XAI_HOST_DEVICE inline void store(T* p, const Compute<T> (&x)[W]) {
  Pack<T, W> pack;
  for (int w = 0; w < W; ++w) pack.v[w] = narrow<T>(x[w]);
  store_pack(p, pack);
}

// Whether packs may start at each of these pointers.
template <class... P>
XAI_HOST_DEVICE inline bool start_packs(const P*... p) {
  return ((reinterpret_cast<std::uintptr_t>(p) % kPackBytes == 0) && ...);
}

}  // namespace xaifast
