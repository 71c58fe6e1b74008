// How the threads of a CUDA grid share an elementwise kernel; plain C++ too, so that a test can
// play a grid on a machine without a GPU. A kernel is an "element": a struct of pointers and sizes,
//   kResident           blocks that shall fit into one multiprocessor: bounds the registers
//   size()              positions
//   targets()           how often each position is computed (the relevance of several outputs)
//   packs()             whether run<W> is allowed with W > 1: alignment, and what W must divide
//   run<W>(i, t, step)  computes positions [i, i + W) for the targets t, t + step, ...
// Threads along x share positions; rows along y share targets, so that few positions with many
// targets fill the GPU as well, and many positions load what the targets share only once.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/stabilizer.h"

namespace xaifast {

inline constexpr int kThreads = 256;                 // per block
inline constexpr std::int64_t kMaxBlocks = 1 << 20;  // along x, where CUDA allows 2^31 - 1
// Enough blocks to keep a large GPU busy. Rows are never more, so CUDA's 65535 are not reached.
inline constexpr std::int64_t kBusyBlocks = 2048;

struct Grid {
  std::int64_t blocks;
  std::int64_t rows;
};

inline Grid grid_for(std::int64_t packs, std::int64_t targets) {
  const std::int64_t blocks = std::clamp<std::int64_t>((packs - 1) / kThreads + 1, 1, kMaxBlocks);
  return {blocks, std::clamp<std::int64_t>(kBusyBlocks / blocks, 1, targets)};
}

// The share of one thread: `thread` of `threads` along x, `row` of `rows` along y.
template <int W, class Element>
XAI_HOST_DEVICE inline void run_thread(const Element& element, std::int64_t thread,
                                       std::int64_t threads, std::int64_t row, std::int64_t rows) {
  const std::int64_t size = element.size();
  const std::int64_t packs = size / W;
  for (std::int64_t i = thread; i < packs; i += threads) element.template run<W>(i * W, row, rows);
  if constexpr (W > 1) {  // what no full pack covers
    for (std::int64_t i = packs * W + thread; i < size; i += threads) {
      element.template run<1>(i, row, rows);
    }
  }
}

}  // namespace xaifast
