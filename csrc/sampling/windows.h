// Windows that are moved over a sample, along all of its axes: what occlude_windows hides, and what
// scatter_windows gathers. Along an axis of `size` numbers they start at 0, stride, 2 stride, ...,
//   ceil((size - window) / stride) + 1 of them (1 where the window is as long as the axis),
// and the last is cut off at the border. It covers nothing where it starts beyond it, which it does
// for strides that are longer than the axis.
//
// Axes are in the order of memory, and those that make no difference are merged (shapes.h): an axis
// that every window covers in full becomes part of the axis before it. All sizes are at least 1: an
// empty sample has windows as well, of which nothing is written.
#pragma once

#include <algorithm>
#include <cstdint>

#include "sampling/batch.h"

namespace xaifast {

struct WindowAxis {
  std::int64_t size;
  std::int64_t window;
  std::int64_t stride;
  std::int64_t positions;
  std::int64_t step;  // from a window to its neighbour along this axis, in numbers of windows
};

struct Windows {
  int axes;
  WindowAxis axis[kMaxAxes];
};

inline std::int64_t window_positions(std::int64_t size, std::int64_t window, std::int64_t stride) {
  return size <= window ? 1 : (size - window - 1) / stride + 2;
}

// Windows [begin, end) of an axis that cover its number e; begin >= end where none does.
XAI_HOST_DEVICE inline std::int64_t first_window(const WindowAxis& a, std::int64_t e) {
  return e < a.window ? 0 : (e - a.window) / a.stride + 1;
}
XAI_HOST_DEVICE inline std::int64_t last_window(const WindowAxis& a, std::int64_t e) {
  const std::int64_t end = e / a.stride + 1;
  return end < a.positions ? end : a.positions;
}

// A kernel for few axes has their number fixed: those of w come last, before them some of size 1.
template <int kAxes>
inline void fixed_axes(const Windows& w, WindowAxis (&axis)[kAxes]) {
  const int missing = kAxes - w.axes;
  std::fill(axis, axis + missing, WindowAxis{1, 1, 1, 1, 0});
  std::copy(w.axis, w.axis + w.axes, axis + missing);
}
inline constexpr int kFewAxes = 4;

}  // namespace xaifast
