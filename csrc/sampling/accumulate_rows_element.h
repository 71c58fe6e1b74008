// One step of accumulate_rows (contract: accumulate_rows.h), as a CUDA thread does it; see
// common/grid.h. Samples are the targets: the rows y of a grid share them by n mod step, so that a
// sum belongs to one thread, which meets its terms in ascending order: no atomics. Each thread
// looks at every sample[r], but only at the g of its own.
#pragma once

#include "common/pack.h"
#include "sampling/accumulate_rows.h"

namespace xaifast {

template <class G, class C>
struct AccumulateElement {
  static constexpr int kResident = 4;
  static constexpr int kTogether = 4;  // rows whose g is on the way at the same time
  const G* g;
  const std::int64_t* sample;
  const double* weight;
  C* total;
  BatchShape shape;

  XAI_HOST_DEVICE std::int64_t size() const { return shape.size; }
  XAI_HOST_DEVICE std::int64_t targets() const { return shape.samples; }

  // The width of a pack of total; numbers of g are never wider.
  bool packs() const { return shape.size % kPackWidth<C> == 0 && start_packs(total, g); }

  // Whether the sums of sample n are those of grid row t of `step`. 32 bits are enough to share.
  static XAI_HOST_DEVICE bool mine(std::int64_t n, std::int64_t t, std::int64_t step) {
    return static_cast<std::uint32_t>(n) % static_cast<std::uint32_t>(step) ==
           static_cast<std::uint32_t>(t);
  }

  // Adds weight ge to the sum of sample n, which is in registers as long as n is `held`.
  template <int W>
  XAI_HOST_DEVICE void add(std::int64_t n, std::int64_t e, C weight, const Compute<G> (&ge)[W],
                           std::int64_t& held, C (&sum)[W]) const {
    if (n != held) {
      if (held >= 0) store<W>(total + shape.at(held) + e, sum);
      load<W>(total + shape.at(n) + e, sum);
      held = n;
    }
    for (int w = 0; w < W; ++w) sum[w] += rounded_product(weight, static_cast<C>(ge[w]));
  }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t e, std::int64_t t, std::int64_t step) const {
    C sum[W] = {};
    std::int64_t held = -1;
    XAI_NO_UNROLL
    for (std::int64_t r = 0; r < shape.rows; r += kTogether) {
      Compute<G> ge[kTogether][W] = {};
      bool ours[kTogether];
      for (int k = 0; k < kTogether; ++k) {
        ours[k] = r + k < shape.rows && shape.has(sample[r + k]) && mine(sample[r + k], t, step);
        if (ours[k]) load<W>(g + (r + k) * shape.size + e, ge[k]);
      }
      for (int k = 0; k < kTogether; ++k) {
        if (ours[k]) add<W>(sample[r + k], e, static_cast<C>(weight[r + k]), ge[k], held, sum);
      }
    }
    if (held >= 0) store<W>(total + shape.at(held) + e, sum);
  }
};

}  // namespace xaifast
