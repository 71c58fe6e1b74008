// Relevance through a max pooling, in one to three dimensions (the missing ones have size 1).
//   winner-take-all:  R_i = sum_o [i is the first largest input of window o] R_o
//   proportional:     R_i = a_i sum_o R_o / (z_o + eps sgn z_o),  z_o = sum of a over window o
//
// a [outer, in_0, in_1, in_2, inner]             activations that entered the pooling
// R [targets, outer, out_0, out_1, out_2, inner] relevance of its output
// r [targets, outer, in_0, in_1, in_2, inner]    overwritten (set to zero first)
// channels_last: inner = channels; contiguous: outer = batch x channels, inner = 1.
//
// Window o covers in = o * stride - padding + j * dilation, cut at the borders; a window may be
// cut to nothing (ceil mode never makes one). Ties: the first in row-major order of the window,
// as PyTorch does; a NaN wins. dtypes: float32, float64, bfloat16, float16 (computed in float32).
// Empty: nothing is written. Deterministic: one task owns (outer, inner block) in all targets.
#pragma once

#include <algorithm>
#include <cstdint>

namespace xaifast {

struct PoolShape {
  std::int64_t targets;
  std::int64_t outer;
  std::int64_t inner;
  std::int64_t in[3];
  std::int64_t out[3];
  std::int64_t kernel[3];
  std::int64_t stride[3];
  std::int64_t padding[3];
  std::int64_t dilation[3];
};

enum class PoolRule { kWinnerTakeAll, kProportional };

// A task owns a block of inner positions of one outer index: all of them where there are outer
// indices enough for the threads (long rows are read faster), else a part. At most kPoolBlock.
inline constexpr std::int64_t kPoolBlock = 256;

inline std::int64_t pool_block(const PoolShape& shape, std::int64_t threads) {
  const std::int64_t share = shape.outer >= threads ? 1 : threads;
  const std::int64_t even = (shape.inner + share - 1) / share;
  const std::int64_t lines = (even + 15) / 16 * 16;  // whole cache lines
  return std::min(kPoolBlock, std::max<std::int64_t>(lines, 16));
}

inline std::int64_t pool_tasks(const PoolShape& shape, std::int64_t block) {
  return shape.outer * ((shape.inner + block - 1) / block);
}

// Tasks [begin, end) of pool_tasks(shape, block).
template <class T>
void pool_redistribute(const T* a, const T* R, T* r, const PoolShape& shape, PoolRule rule,
                       double eps, std::int64_t block, std::int64_t begin, std::int64_t end);

}  // namespace xaifast
