// How the CPU glue shares work among threads. Knows PyTorch; see tensors.h.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "common/floats.h"
#include "common/tensors.h"

namespace xaifast {

// Elements that make a thread worth waking.
inline constexpr std::int64_t kGrain = 32768;

inline std::int64_t grain(std::int64_t work_per_item) {
  return std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, work_per_item));
}

// Runs f(begin, end) over the parts of [0, n), each by one thread.
template <class F>
void share(std::int64_t n, std::int64_t work_per_item, const F& f) {
  at::parallel_for(0, n, grain(work_per_item), f);
}

// The same with f.operator()<T>(begin, end), T the number type of x.
template <class F>
void run(const at::Tensor& x, std::int64_t n, std::int64_t work_per_item, const F& f) {
  dispatch<BFloat16, Float16>(x, [&]<class T>() {
    share(n, work_per_item,
          [&](std::int64_t begin, std::int64_t end) { f.template operator()<T>(begin, end); });
  });
}

// The same for kernels that only copy; see dispatch_words.
template <class F>
void run_words(const at::Tensor& x, std::int64_t n, std::int64_t work_per_item, const F& f) {
  dispatch_words(x, [&]<class Word>() {
    share(n, work_per_item,
          [&](std::int64_t begin, std::int64_t end) { f.template operator()<Word>(begin, end); });
  });
}

}  // namespace xaifast
