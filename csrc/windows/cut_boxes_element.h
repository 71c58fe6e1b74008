// One step of cut_boxes (contract: cut_boxes.h), as a CUDA thread does it; see common/grid.h. Rows
// are the targets; neighbouring threads share a position, whose channels are one stretch of memory.
#pragma once

#include "common/pack.h"
#include "windows/cut_boxes.h"

namespace xaifast {

template <class T>
struct BoxElement {
  static constexpr int kResident = 4;
  const T* x;
  const T* box;
  const std::int64_t* origin;
  const std::int64_t* start;
  T* out;
  BoxShape shape;
  Compute<T> fill;

  XAI_HOST_DEVICE std::int64_t size() const { return shape.positions() * shape.channels; }
  XAI_HOST_DEVICE std::int64_t targets() const { return shape.rows; }
  bool packs() const {
    return shape.channels % kPackWidth<T> == 0 && start_packs(x, out) &&
           (box == nullptr || start_packs(box));
  }

  // Where position p of row r is found; null: nowhere.
  XAI_HOST_DEVICE const T* find(std::int64_t p, std::int64_t r) const {
    std::int64_t in_map = 0, in_box = r;
    bool map = true, changed = box != nullptr;
    std::int64_t inner = shape.size[1] * shape.size[2];
    XAI_NO_UNROLL
    for (int a = 0; a < kBoxAxes; ++a) {
      const std::int64_t i = shape.at(start, r, a) + p / inner;
      p %= inner;
      if (a + 1 < kBoxAxes) inner /= shape.size[a + 1];
      map = map && i >= 0 && i < shape.shape[a];
      in_map = in_map * shape.shape[a] + i;
      if (!changed) continue;
      const std::int64_t k = i - shape.at(origin, r, a);
      changed = k >= 0 && k < shape.changed[a];
      in_box = in_box * shape.changed[a] + k;
    }
    if (changed) return box + in_box * shape.channels;
    return map ? x + in_map * shape.channels : nullptr;
  }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t e, std::int64_t r, std::int64_t step) const {
    const std::int64_t p = e / shape.channels, c = e % shape.channels;
    XAI_NO_UNROLL
    for (; r < shape.rows; r += step) {
      const T* from = find(p, r);
      Pack<T, W> y;
      if (from == nullptr) {
        for (int w = 0; w < W; ++w) y.v[w] = narrow<T>(fill);
      } else {
        y = load_pack<W>(from + c);
      }
      store_pack(out + r * size() + e, y);
    }
  }
};

}  // namespace xaifast
