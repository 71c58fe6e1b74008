// Boxes cut out of one map that each row has changed in a box of its own: what an operation reads
// that runs on the changed part of its output alone.
//   out[r, p] = box[r, start[r] + p - origin[r]]   where that is in the box of row r,
//               x[start[r] + p]                    else, where that is in the map,
//               fill                               else
//
// x [shape, channels], box [rows, changed, channels], out [rows, size, channels]
// start, origin [axes, rows]     in [-2^61, 2^61]
//
// p counts the positions of a map of three axes; maps of fewer have axes of size 1 before theirs,
// along which boxes start at 0. Without boxes box and origin are null, and not read. out is
// overwritten and must not overlap x or box. Empty: nothing is written. Deterministic.
#pragma once

#include <cstdint>

#include "common/floats.h"
#include "common/stabilizer.h"

namespace xaifast {

inline constexpr int kBoxAxes = 3;

struct BoxShape {
  std::int64_t rows, channels;
  int axes;  // of start and origin, the last of the three
  std::int64_t shape[kBoxAxes], size[kBoxAxes], changed[kBoxAxes];

  // What start and origin [axes, rows] say of row r along one of the three axes.
  XAI_HOST_DEVICE std::int64_t at(const std::int64_t* list, std::int64_t r, int axis) const {
    const int own = axis - (kBoxAxes - axes);
    return own < 0 ? 0 : list[own * rows + r];
  }
  XAI_HOST_DEVICE std::int64_t positions() const { return size[0] * size[1] * size[2]; }
};

// Rows [begin, end).
template <class T>
void cut_boxes(const T* x, const T* box, const std::int64_t* origin, const std::int64_t* start,
               T* out, const BoxShape& shape, double fill, std::int64_t begin, std::int64_t end);

}  // namespace xaifast
