// CUDA's execution model on one CPU thread, as kernels see it: what include/cuda_runtime.h stands
// on. emulation.cpp does the work; device.h is what a test sees.
//
// A .cu file is translated by translate.py (launches and __shared__ variables become calls of what
// is here, line by line) and compiled by the host compiler with __CUDACC__, __CUDA_ARCH__ and
// XAI_EMULATED. Each thread of a block is a fiber that runs until it waits: at a barrier of the
// block or the warp, at a shuffle or a vote, at the end. Blocks run one after the other. Which
// block and which thread is next is drawn from a seed.
//
// The compiler is asked for -fsanitize=thread, but its runtime is not linked: the calls that it
// puts before each access to memory arrive in emulation.cpp, which knows every buffer and checks
//   bounds         every access lies in a buffer of the call, in a variable in shared memory, or in
//                  the thread's own variables; what is for reading is not written
//   unwritten      nothing is read that nobody wrote: shared memory is filled with NaN patterns
//                  before each block, outputs before each call
//   races          two accesses of one byte, one of them a write, by two threads of a block with no
//                  barrier between them (a __syncwarp of the whole warp orders its lanes, a shuffle
//                  does not), or by two blocks
//   barriers       all threads of the block arrive, at the same line
//   warps          all lanes of a mask arrive with that mask, and nobody reads a lane outside of it
//   copies         what cp.async brings is not read before it was waited for
//   launches       grids, blocks and shared memory within the limits of CUDA and __launch_bounds__
// -fsanitize=undefined adds overflow of signed integers, shifts and misaligned vectors.
//
// What it does not prove: speed, registers and occupancy; that the PTX and SASS do what their
// meaning in common/ptx.h says, and on which architecture; the order of memory finer than barriers
// (atomics are taken as ordered, volatile and fences as nothing); that blocks which run at once
// progress together (none of ours wait for each other); the rounding of exp, tanh and other
// functions of CUDA's library, and of fused multiply-adds, which nvcc makes and this does not; the
// order in which a tensor core adds; limits of drivers. benchmarks/gpu_check.sh is for those.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <source_location>
#include <type_traits>
#include <typeinfo>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

using cudaStream_t = struct CUstream_st*;

namespace emulation {

using Where = std::source_location;

#define XAI_UNCHECKED __attribute__((no_sanitize_thread))

// ---- launches ---------------------------------------------------------------------------------

// Every instantiation of a kernel that is compiled, whether it runs or not.
int add_instantiation(const std::type_info& local);

template <class Local>
struct Instantiation {
  static inline const int number = add_instantiation(typeid(Local));
};

// First in each kernel, with its __launch_bounds__.
void enter(int instantiation, int most_threads);
template <class Local>
XAI_UNCHECKED inline void enter(int most_threads = 1024, int = 0) {
  enter(Instantiation<Local>::number, most_threads);
}

// The kernels of a file, by name, so that one that is never instantiated is missed.
struct Declared {
  Declared(const char* file, std::initializer_list<const char*> kernels);
};

struct Configuration {
  dim3 grid, block;
  std::size_t shared;
  cudaStream_t stream;
  Where where;

  Configuration(dim3 grid, dim3 block, std::size_t shared = 0, cudaStream_t stream = nullptr,
                Where where = Where::current())
      : grid(grid), block(block), shared(shared), stream(stream), where(where) {}
};

void launch(const Configuration& configuration, void (*thread)(const void*), const void* call);

// kernel<<<configuration>>>(arguments) is launcher(kernel, configuration)(arguments).
template <class Kernel>
struct Launcher {
  Kernel kernel;
  Configuration configuration;

  template <class... A>
  void operator()(A... arguments) const {
    const auto call = [&]() XAI_UNCHECKED { kernel(arguments...); };
    launch(
        configuration,
        [](const void* body) XAI_UNCHECKED { (*static_cast<decltype(&call)>(body))(); }, &call);
  }
};

template <class Kernel>
Launcher<Kernel> launcher(Kernel kernel, Configuration configuration) {
  return {kernel, configuration};
}

// ---- shared memory ----------------------------------------------------------------------------

// A variable in shared memory; `key` tells one from another.
void* shared(const void* key, const char* name, std::size_t bytes, std::size_t align);
void* dynamic_shared(const char* name, std::size_t align);

template <class T, class Site>
XAI_UNCHECKED inline T& shared(const char* name, Site, std::size_t align = alignof(T)) {
  static const char key = 0;
  return *static_cast<T*>(shared(&key, name, sizeof(T), align));
}
template <class T>
XAI_UNCHECKED inline T* dynamic_shared(const char* name) {
  return static_cast<T*>(dynamic_shared(name, alignof(T)));
}

// ---- barriers, warps, copies ------------------------------------------------------------------

void barrier(Where where);
void warp_barrier(std::uint32_t mask, Where where);

// Waits for all lanes of the mask, which must come with the same operation and mask; then one of
// them calls act(lanes), with the `brought` of each, null for lanes outside of the mask.
using Act = void (*)(void* const (&lanes)[32], const void* extra);
void in_lock_step(const char* operation, std::uint32_t mask, void* brought, Act act,
                  const void* extra, Where where);

template <class Lane, class F>
XAI_UNCHECKED inline void in_lock_step(const char* operation, std::uint32_t mask, Lane& brought,
                                       F act, Where where = Where::current()) {
  in_lock_step(
      operation, mask, &brought,
      [](void* const(&lanes)[32], const void* extra) {
        Lane* typed[32];
        for (int i = 0; i < 32; ++i) typed[i] = static_cast<Lane*>(lanes[i]);
        (*static_cast<const F*>(extra))(typed);
      },
      &act, where);
}

// A fault of the kernel: the block ends here.
[[noreturn]] void fault(const char* kind, const char* text, Where where);

void copy_async(void* shared, const void* from, std::size_t bytes, bool there);
void copy_async_commit();
void copy_async_wait(int pending);

template <class T>
struct ShuffleLane {
  T x, got;
  int source;  // its lane
  bool inside;
};

// The x of lane source(me), of the own group of `width` lanes; the own x where there is none.
template <class T, class F>
XAI_UNCHECKED inline T shuffle(const char* operation, std::uint32_t mask, T x, int width,
                               const F& source, Where where);

int lane_of_warp();

template <class T, class F>
inline T shuffle(const char* operation, std::uint32_t mask, T x, int width, const F& source,
                 Where where) {
  static_assert(std::is_trivially_copyable_v<T>);
  const int me = lane_of_warp(), first = me / width * width, from = source(me - first);
  ShuffleLane<T> lane{x, x, from < 0 || from >= width ? me : first + from, true};
  in_lock_step(
      operation, mask, lane,
      [](ShuffleLane<T>* const(&lanes)[32]) {
        for (auto* to : lanes) {
          if (to == nullptr) continue;
          const auto* sender = lanes[to->source];
          to->inside = sender != nullptr;
          if (sender != nullptr) to->got = sender->x;
        }
      },
      where);
  if (!lane.inside) fault(operation, "reads a lane that is not in the mask", where);
  return lane.got;
}

struct VoteLane {
  bool x;
  std::uint32_t got;
};

inline std::uint32_t ballot(const char* operation, std::uint32_t mask, bool x, Where where) {
  VoteLane lane{x, 0};
  in_lock_step(
      operation, mask, lane,
      [](VoteLane* const(&lanes)[32]) {
        std::uint32_t all = 0;
        for (int i = 0; i < 32; ++i) all |= lanes[i] != nullptr && lanes[i]->x ? 1u << i : 0u;
        for (auto* to : lanes) {
          if (to != nullptr) to->got = all;
        }
      },
      where);
  return lane.got;
}

// ---- atomics: seen by the checks as such ------------------------------------------------------

void atomic_access(void* p, std::size_t bytes, Where where);

template <class T, class F>
XAI_UNCHECKED inline T atomic(T* p, const F& f, Where where) {
  atomic_access(p, sizeof(T), where);
  const T was = *p;
  *p = f(was);
  return was;
}

}  // namespace emulation
