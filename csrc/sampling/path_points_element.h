// One step of path_points (contract: path_points.h), as a CUDA thread does it; see common/grid.h.
// Rows are the targets: a thread keeps the numbers of a sample for as long as the rows that it
// visits belong to it.
#pragma once

#include "common/pack.h"
#include "sampling/path_points.h"

namespace xaifast {

template <class T>
struct PathElement {
  using C = Compute<T>;
  static constexpr int kResident = 4;
  const T* x;
  const T* baseline;
  const std::int64_t* sample;
  const double* alpha;
  T* out;
  BatchShape shape;
  C floor;

  XAI_HOST_DEVICE std::int64_t size() const { return shape.size; }
  XAI_HOST_DEVICE std::int64_t targets() const { return shape.rows; }
  bool packs() const { return shape.size % kPackWidth<T> == 0 && start_packs(x, baseline, out); }

  template <int W>
  XAI_HOST_DEVICE void load_ends(std::int64_t n, std::int64_t e, C (&xe)[W], C (&be)[W]) const {
    if (shape.has(n)) {
      load<W>(x + shape.at(n) + e, xe);
      load<W>(baseline + shape.baseline_at(n) + e, be);
    } else {
      for (int w = 0; w < W; ++w) xe[w] = be[w] = kNotANumber<C>;
    }
  }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t e, std::int64_t r, std::int64_t step) const {
    C xe[W] = {}, be[W] = {}, y[W];
    std::int64_t held = -1;
    XAI_NO_UNROLL
    for (; r < shape.rows; r += step) {
      const std::int64_t n = shape.or_none(sample[r]);
      if (n != held) load_ends<W>(held = n, e, xe, be);
      const PathStep<C> p(alpha[r]);
      for (int w = 0; w < W; ++w) {
        y[w] = path_point<C>(p.from_x ? xe[w] : be[w], xe[w], be[w], p.step, floor);
      }
      store<W>(out + r * shape.size + e, y);
    }
  }
};

}  // namespace xaifast
