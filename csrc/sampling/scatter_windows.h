// Scores of windows on the elements that they cover:
//   out[t, e] = sum of scores[t, k] over the windows k that cover e      (windows.h)
//               divided by their number, with `average`; 0 where there is none
//
// scores [targets, K]           one for each window, windows of the last axis side by side
// out [targets, size]           overwritten
//
// dtypes: float32, float64, bfloat16, float16 (the latter two computed in float32). Windows are
// added in one order, the same on every device: along the last axis the sums over the other axes,
// each in ascending order. Empty: nothing is written.
#pragma once

#include "sampling/windows.h"

namespace xaifast {

struct ScatterShape {
  std::int64_t targets;
  std::int64_t size;  // numbers in a sample
  std::int64_t K;     // windows
  bool average;
  Windows windows;

  // The last axis is computed as a line.
  std::int64_t line() const { return windows.axis[windows.axes - 1].size; }
  std::int64_t lines() const { return size == 0 ? 0 : targets * (size / line()); }
};

// Lines [begin, end) of shape.lines().
template <class T>
void scatter_windows(const T* scores, T* out, const ScatterShape& shape, std::int64_t begin,
                     std::int64_t end);

}  // namespace xaifast
