// 3 x 3 convolutions with stride 1 and padding 0 or 1 by Winograd's algorithm F(2 x 2, 3 x 3): of
// each tile of 2 x 2 outputs, whose inputs are 4 x 4,
//   y = A^T [ sum_c (G w G^T) . (B^T x B) ] A + b
// so that 16 products per channel take the place of 36. Blocks of tiles pass through the three
// steps one after the other and stay in the cache.
//
// An output depends on its own 3 x 3 inputs alone, to the last bit: the products that reach it hold
// no others. Where those are zero, it is b. (Larger tiles save more, but do not keep this.)
//
// x [N, height(), width(), C]           channels last
// y [N, H, W, K]                        channels last; overwritten
// w [4, 4, K / panel, C, panel]         G w G^T (ops.winograd_weights makes it)
// b [K] or null                         bias
// scratch [winograd_scratch]            of one thread
// C a multiple of kLanes<T>, K of panel = 2 kLanes<T>.
// dtypes: float32, float64. Empty: nothing is written. Deterministic: each output is summed over c
// in ascending order, whatever the threads and blocks.
#pragma once

#include <cstdint>

#include "relevance/panels.h"

namespace xaifast {

struct WinogradShape {
  std::int64_t N, H, W, C, K;
  std::int64_t padding = 1;

  std::int64_t height() const { return H + 2 - 2 * padding; }  // of x
  std::int64_t width() const { return W + 2 - 2 * padding; }
  std::int64_t rows() const { return (H + 1) / 2; }
  std::int64_t columns() const { return (W + 1) / 2; }
  std::int64_t tiles() const { return N * rows() * columns(); }
};

// Elements of scratch for blocks of up to `block` tiles.
template <class T>
std::int64_t winograd_scratch(WinogradShape shape, std::int64_t block);

// Tiles [begin, end) of all samples, at most `block` at once. relu: max(0, y), which keeps a NaN.
template <class T>
void winograd(const T* x, const T* w, const T* b, bool relu, T* y, T* scratch, WinogradShape shape,
              std::int64_t block, std::int64_t begin, std::int64_t end);

}  // namespace xaifast
