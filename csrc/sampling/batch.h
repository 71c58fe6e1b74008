// A batch as the ops of this family make and reduce it: row r belongs to sample n = sample[r] of
// the user's input, in any order, repeats allowed. The numbers of a sample stand in the same order
// in all tensors of a call; a kernel sees them as one axis.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "common/stabilizer.h"

namespace xaifast {

struct BatchShape {
  std::int64_t rows;       // of the batch
  std::int64_t samples;    // of the user's input
  std::int64_t baselines;  // samples, or 1: one baseline serves all of them
  std::int64_t size;       // numbers in a sample

  // The CPU glue checks each sample[r]. On CUDA that would have to wait for the device: the kernels
  // there ask this, never leave their tensors, and fill the row of a sample that is not there with
  // kNotANumber.
  XAI_HOST_DEVICE bool has(std::int64_t n) const { return n >= 0 && n < samples; }
  XAI_HOST_DEVICE std::int64_t or_none(std::int64_t n) const { return has(n) ? n : samples; }

  // Where sample n starts, and where its baseline does.
  XAI_HOST_DEVICE std::int64_t at(std::int64_t n) const { return n * size; }
  XAI_HOST_DEVICE std::int64_t baseline_at(std::int64_t n) const {
    return baselines == 1 ? 0 : n * size;
  }
};

// Kernels that look into a sample see its axes. More of two numbers or more would not fit into 64
// bits.
inline constexpr int kMaxAxes = 64;

template <class C>
inline constexpr C kNotANumber = std::numeric_limits<C>::quiet_NaN();

// Calls f(row, first element, number of elements) for the stretches of single rows that make up
// elements [begin, end) of [rows, size]. Rows are written one after the other: that is what memory
// is fastest at, though the samples that they are made of leave the first cache in between.
template <class F>
inline void for_each_stretch(const BatchShape& shape, std::int64_t begin, std::int64_t end,
                             const F& f) {
  while (begin < end) {
    const std::int64_t r = begin / shape.size;
    const std::int64_t e = begin - r * shape.size;
    const std::int64_t n = std::min(end - begin, shape.size - e);
    f(r, e, n);
    begin += n;
  }
}

}  // namespace xaifast
