// One step of add_split (contract: add_split.h), as a CUDA thread does it; see common/grid.h.
#pragma once

#include "common/pack.h"
#include "common/rounded.h"
#include "relevance/add_split.h"

namespace xaifast {

template <class T>
struct AddSplitElement {
  using C = Compute<T>;
  static constexpr int kResident = 4;
  const T* x;
  const T* y;
  const T* R;
  T* Rx;
  T* Ry;
  std::int64_t n_targets;
  std::int64_t n;
  C beta;
  C eps;

  XAI_HOST_DEVICE std::int64_t size() const { return n; }
  XAI_HOST_DEVICE std::int64_t targets() const { return n_targets; }

  bool packs() const {
    const bool targets_start_packs = n_targets == 1 || n % kPackWidth<T> == 0;
    return targets_start_packs && start_packs(x, y, R, Rx, Ry);
  }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t i, std::int64_t t, std::int64_t step) const {
    C xi[W], yi[W], rx[W], ry[W];
    load<W>(x + i, xi);
    load<W>(y + i, yi);
    // Rounded before it is added: a fused x + beta y would not be zero where the rounded summands
    // cancel, and their relevance would explode instead of being absorbed.
    for (int w = 0; w < W; ++w) yi[w] = rounded_product(beta, yi[w]);
    XAI_NO_UNROLL
    for (; t < n_targets; t += step) {
      const std::int64_t at = t * n + i;
      load<W>(R + at, ry);
      for (int w = 0; w < W; ++w) {
        const C s = stabilized_quotient<C>(ry[w], xi[w] + yi[w], eps);
        rx[w] = xi[w] * s;
        ry[w] = yi[w] * s;
      }
      store<W>(Rx + at, rx);
      store<W>(Ry + at, ry);
    }
  }
};

}  // namespace xaifast
