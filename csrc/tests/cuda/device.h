// How a native test runs a launcher on the emulated device (emulation.h), with the memory of the
// test itself as the device's:
//
//   if constexpr (kEmulated) {
//     s = poison<T>(n);
//     on_device(what, {reads(R), reads(z), writes(s)}, [&] { return divide_cuda<T>(...); });
//     expect(what + " on the device", s, want);
//   }
//
// A fault fails the test, with the line of the kernel, the threads and the seed; XAIFAST_SEED=n in
// the environment repeats it. At the end, every instantiation of every kernel that is linked must
// have run. Without XAI_EMULATED_DEVICE (under sanitizers, whose runtimes know no fibers) nothing
// of this is compiled.
#pragma once

#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "tests/cuda/session.h"

namespace xaifast {

#ifdef XAI_EMULATED_DEVICE
inline constexpr bool kEmulated = true;
#else
inline constexpr bool kEmulated = false;
#endif

void check(bool good, const std::string& what);

template <class T>
emulation::Buffer reads(const std::vector<T>& x) {
  return {const_cast<T*>(x.data()), x.size() * sizeof(T), emulation::Use::kReads, {}, {}};
}
template <class T>
emulation::Buffer writes(std::vector<T>& x) {
  return {x.data(), x.size() * sizeof(T), emulation::Use::kWrites, {}, {}};
}
template <class T>
emulation::Buffer updates(std::vector<T>& x) {
  return {x.data(), x.size() * sizeof(T), emulation::Use::kUpdates, {}, {}};
}

template <class F>
void on_device(const std::string& what, std::vector<emulation::Buffer> buffers, const F& launch) {
  static const bool seeded = [] {
    if (const char* const seed = std::getenv("XAIFAST_SEED")) {
      emulation::set_seed(std::strtoull(seed, nullptr, 10));
    }
    return true;
  }();
  (void)seeded;
  emulation::begin_case(std::move(buffers));
  const cudaError_t error = launch();
  const auto faults = emulation::end_case();
  for (const auto& fault : faults) check(false, what + " on the device: " + fault.text);
  if (faults.empty()) {
    check(error == cudaSuccess, what + " on the device: " + cudaGetErrorString(error));
  }
}

// More numbers than memory holds: pages of it are there when they are touched. What is read is
// number(i) at index i; what is written is looked up at the indices of interest.
template <class T>
class Vast {
 public:
  explicit Vast(int64_t n) : bytes_(static_cast<std::size_t>(n) * sizeof(T)) {
    void* const p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    check(p != MAP_FAILED, "a vast buffer of " + std::to_string(n) + " numbers");
    data_ = static_cast<T*>(p);
  }
  Vast(const Vast&) = delete;
  ~Vast() { munmap(data_, bytes_); }

  T* data() { return data_; }

  // number(i) is what is there, good(i, x) whether x may have been written there.
  template <class F>
  emulation::Buffer reads(F number) {
    return {data_,
            bytes_,
            emulation::Use::kReads,
            each([this, number](int64_t i) { data_[i] = number(i); }),
            {}};
  }
  template <class G>
  emulation::Buffer writes(const std::string& what, G good) {
    return {data_, bytes_, emulation::Use::kWrites, {}, looks(what, good)};
  }
  // Numbers that others have left there.
  template <class F, class G>
  emulation::Buffer updates(const std::string& what, F number, G good) {
    auto buffer = reads(number);
    buffer.use = emulation::Use::kUpdates;
    buffer.look = looks(what, good);
    return buffer;
  }

  // Beyond 2^31, and how many there were.
  int64_t seen() const { return seen_; }

 private:
  template <class F>
  auto each(F f) {
    return [f](std::size_t at, std::size_t n) {
      for (auto i = static_cast<int64_t>(at / sizeof(T)); i * int64_t{sizeof(T)} < int64_t(at + n);
           ++i) {
        f(i);
      }
    };
  }
  template <class G>
  auto looks(const std::string& what, G good) {
    return each([this, what, good](int64_t i) {
      seen_ += i >= int64_t{1} << 31;
      if (!good(i, data_[i])) check(false, what + ": at " + std::to_string(i));
    });
  }

  T* data_;
  std::size_t bytes_;
  int64_t seen_ = 0;
};

// Runs the launch with so many blocks of its grid only: the first, the last, and some between.
template <class F>
void on_some_blocks(const std::string& what, std::vector<emulation::Buffer> buffers,
                    const F& launch, std::size_t blocks = 4) {
  emulation::set_most_blocks(blocks);
  on_device(what, std::move(buffers), launch);
  emulation::set_most_blocks(0);
}

#ifdef XAI_EMULATED_DEVICE
inline void report_device() {
  const auto t = emulation::totals();
  std::printf(
      "emulated device: %zu kernels, %zu instantiations, %zu cases, %zu blocks, seed %llu\n",
      t.kernels, t.instantiations, t.cases, t.blocks,
      static_cast<unsigned long long>(emulation::seed()));
  for (const auto& name : t.missed) check(false, "no case runs the kernel " + name);
}

#else

inline void report_device() {}

#endif

}  // namespace xaifast
