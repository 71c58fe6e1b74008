#include "windows/cut_boxes.h"

#include <algorithm>
#include <cstring>

namespace xaifast {
namespace {

// The places of one row: where it is cut out, and where it is changed.
struct Places {
  std::int64_t start[kBoxAxes], origin[kBoxAxes];
};

bool within(std::int64_t i, std::int64_t n) { return i >= 0 && i < n; }

// One line of positions along the last axis, at (i, j) of the others in the map.
template <class T>
struct Line {
  const BoxShape& shape;
  const Places& at;
  T fill;

  T* copy(const T* from, std::int64_t first, std::int64_t last, T* out) const {
    const std::int64_t n = (last - first) * shape.channels;
    const void* begin = from + first * shape.channels;
    if (n > 0) std::memcpy(static_cast<void*>(out), begin, n * sizeof(T));
    return out + n;
  }

  // Positions first <= ... < last, of which those in [0, shape) are in the map; x may be null.
  T* plain(const T* x, std::int64_t first, std::int64_t last, T* out) const {
    const std::int64_t begin = x == nullptr ? last : std::clamp<std::int64_t>(0, first, last);
    const std::int64_t end = std::clamp(shape.shape[2], begin, last);
    out = std::fill_n(out, (begin - first) * shape.channels, fill);
    out = copy(x, begin, end, out);
    return std::fill_n(out, (last - end) * shape.channels, fill);
  }

  // x is null beyond the map, box beyond the changed box.
  T* write(const T* x, const T* box, T* out) const {
    const std::int64_t first = at.start[2], last = first + shape.size[2];
    if (box == nullptr) return plain(x, first, last, out);
    const std::int64_t begin = std::clamp(at.origin[2], first, last);
    const std::int64_t end = std::clamp(at.origin[2] + shape.changed[2], begin, last);
    out = plain(x, first, begin, out);
    out = copy(box, begin - at.origin[2], end - at.origin[2], out);
    return plain(x, end, last, out);
  }
};

}  // namespace

template <class T>
void cut_boxes(const T* x, const T* box, const std::int64_t* origin, const std::int64_t* start,
               T* out, const BoxShape& s, double fill, std::int64_t begin, std::int64_t end) {
  const std::int64_t map_line = s.shape[2] * s.channels, box_line = s.changed[2] * s.channels;
  Places at = {};
  const Line<T> line{s, at, T(static_cast<Compute<T>>(fill))};
  out += begin * s.positions() * s.channels;
  for (std::int64_t r = begin; r < end; ++r) {
    for (int a = 0; a < kBoxAxes; ++a) {
      at.start[a] = s.at(start, r, a);
      at.origin[a] = box == nullptr ? 0 : s.at(origin, r, a);
    }
    for (std::int64_t i = at.start[0]; i < at.start[0] + s.size[0]; ++i) {
      for (std::int64_t j = at.start[1]; j < at.start[1] + s.size[1]; ++j) {
        const bool in_map = within(i, s.shape[0]) && within(j, s.shape[1]);
        const std::int64_t k = i - at.origin[0], l = j - at.origin[1];
        const bool in_box = box != nullptr && within(k, s.changed[0]) && within(l, s.changed[1]);
        const T* own =
            in_box ? box + ((r * s.changed[0] + k) * s.changed[1] + l) * box_line : nullptr;
        out = line.write(in_map ? x + (i * s.shape[1] + j) * map_line : nullptr, own, out);
      }
    }
  }
}

#define XAI_INSTANTIATE(T)                                                                     \
  template void cut_boxes<T>(const T*, const T*, const std::int64_t*, const std::int64_t*, T*, \
                             const BoxShape&, double, std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(BFloat16)
XAI_INSTANTIATE(Float16)
#undef XAI_INSTANTIATE

}  // namespace xaifast
