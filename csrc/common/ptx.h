// All inline PTX, as named functions: each with its instruction and with its meaning in plain C++.
// nvcc takes the instruction for the device; the host, and the emulated device of the native tests
// (tests/cuda), take the meaning.
#pragma once

#include <type_traits>

#include "common/numbers.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

#if defined(__CUDA_ARCH__) && !defined(XAI_EMULATED)
#define XAI_PTX
#endif

namespace xaifast {

// ---- words of numbers -------------------------------------------------------------------------

// The larger of each number and its bound; a NaN stays one.
template <class T>
XAI_HOST_DEVICE inline Word at_least(Word x, Word bound) {
#ifdef XAI_PTX
  Word y;
  if constexpr (std::is_same_v<T, float>) {
    asm("max.NaN.f32 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bound));
  } else if constexpr (std::is_same_v<T, __half>) {
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bound));
  } else {
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bound));
  }
  return y;
#else
  Numbers<T> a(x), b(bound);
  for (int e = 0; e < kPerWord<T>; ++e) {
    if (widen<T>(a.v[e]) < widen<T>(b.v[e])) a.v[e] = b.v[e];
  }
  return a.word();
#endif
}

// The smaller of them.
template <class T>
XAI_HOST_DEVICE inline Word at_most(Word x, Word bound) {
#ifdef XAI_PTX
  Word y;
  if constexpr (std::is_same_v<T, float>) {
    asm("min.NaN.f32 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bound));
  } else if constexpr (std::is_same_v<T, __half>) {
    asm("min.NaN.f16x2 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bound));
  } else {
    asm("min.NaN.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bound));
  }
  return y;
#else
  Numbers<T> a(x), b(bound);
  for (int e = 0; e < kPerWord<T>; ++e) {
    if (widen<T>(a.v[e]) > widen<T>(b.v[e])) a.v[e] = b.v[e];
  }
  return a.word();
#endif
}

// A float32 rounded to tf32, which has 10 bits of fraction; ties go away from zero.
XAI_HOST_DEVICE inline Word to_tf32(Word x) {
#ifdef XAI_PTX
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(x) : "f"(__uint_as_float(x)));
  return x;
#else
  return (x + 0x1000u) & ~0x1fffu;
#endif
}

// ---- tensor cores -----------------------------------------------------------------------------

// What a lane of a warp brings to a product, in the fragments of PTX's mma.m16n8: 8 words of depth,
// m16n8k8 of float32 or m16n8k16 of 16-bit numbers.
struct MmaLane {
  float* c[4];  // of rows lane / 4 and lane / 4 + 8, columns lane % 4 * 2 and the next
  Word a[4];    // of those rows, words lane % 4 and lane % 4 + 4
  Word b[2];    // of column lane / 4, the same words
};

// c += a b for a [16, 8 words], b [8 words, 8] of a warp. A tensor core does not look at the bits
// of a float32 that tf32 has not. It may add in another order.
template <class T>
inline void mma_m16n8_meaning(const MmaLane* const (&lanes)[32]) {
  constexpr Word kSeen = std::is_same_v<T, float> ? ~0x1fffu : ~0u;
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float sum = 0;
      for (int k = 0; k < 8; ++k) {
        const Numbers<T> x(lanes[row % 8 * 4 + k % 4]->a[row / 8 + k / 4 * 2] & kSeen);
        const Numbers<T> w(lanes[column * 4 + k % 4]->b[k / 4] & kSeen);
        for (int e = 0; e < kPerWord<T>; ++e) {
          sum += static_cast<float>(widen<T>(x.v[e])) * static_cast<float>(widen<T>(w.v[e]));
        }
      }
      *lanes[row % 8 * 4 + column / 2]->c[row / 8 * 2 + column % 2] += sum;
    }
  }
}

#ifdef __CUDACC__

// The same by all lanes of a warp together.
template <class T>
__device__ inline void mma_m16n8(float& c0, float& c1, float& c2, float& c3, const Word (&a)[4],
                                 const Word (&b)[2]) {
#ifdef XAI_EMULATED
  MmaLane lane{{&c0, &c1, &c2, &c3}, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  emulation::in_lock_step("mma.sync", ~0u, lane, [](MmaLane* const(&lanes)[32]) {
    const MmaLane* all[32];
    for (int i = 0; i < 32; ++i) all[i] = lanes[i];
    mma_m16n8_meaning<T>(all);
  });
#else
#define XAI_MMA(shape, type)                                                          \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type                \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (std::is_same_v<T, float>) {
    XAI_MMA("m16n8k8", "tf32");
  } else if constexpr (std::is_same_v<T, __half>) {
    XAI_MMA("m16n8k16", "f16");
  } else {
    XAI_MMA("m16n8k16", "bf16");
  }
#undef XAI_MMA
#endif
}

// ---- copies -----------------------------------------------------------------------------------

// Copies 16 bytes to shared memory, zeros if not `there`, on its own time: the thread sees them
// when it has waited for their batch, other threads after a barrier behind that. Both start at 16
// bytes.
__device__ inline void copy_async_16(void* shared, const void* from, bool there) {
#ifdef XAI_EMULATED
  emulation::copy_async(shared, from, 16, there);
#else
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(address), "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
               : "memory");
#endif
}

// Ends a batch of copies.
__device__ inline void copy_async_commit() {
#ifdef XAI_EMULATED
  emulation::copy_async_commit();
#else
  asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}

// Waits for all batches of the thread but the last kPending.
template <int kPending>
__device__ inline void copy_async_wait() {
#ifdef XAI_EMULATED
  emulation::copy_async_wait(kPending);
#else
  asm volatile("cp.async.wait_group %0;" : : "n"(kPending) : "memory");
#endif
}

// One store instruction, p at 16 bytes: nvcc splits the plain assignment of a pack into its
// numbers.
__device__ inline void store_16_bytes(void* p, const void* pack) {
  uint4 v;
  memcpy(&v, pack, sizeof(v));
#ifdef XAI_EMULATED
  *static_cast<uint4*>(p) = v;
#else
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(p)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
#endif
}

#endif  // __CUDACC__

}  // namespace xaifast
