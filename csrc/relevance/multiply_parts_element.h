// One step of multiply_parts and of split_signs (contract: multiply_parts.h), as a CUDA thread does
// it; see common/grid.h. Position i counts [outer, inner]; where there are two parts, its first
// part is at i + o inner and its second part one inner further.
#pragma once

#include "common/pack.h"
#include "relevance/multiply_parts.h"

namespace xaifast {

template <class T>
struct MultiplyElement {
  using C = Compute<T>;
  static constexpr int kResident = 4;
  const T* u;
  const T* c;
  T* R;
  PartsShape shape;

  XAI_HOST_DEVICE std::int64_t size() const { return shape.outer * shape.inner; }
  XAI_HOST_DEVICE std::int64_t targets() const { return shape.targets; }

  bool packs() const {
    constexpr std::int64_t W = kPackWidth<T>;
    const bool targets_start_packs = shape.targets == 1 || size() % W == 0;
    const bool parts_start_packs = shape.parts == 1 || shape.inner % W == 0;
    return targets_start_packs && parts_start_packs && start_packs(u, c, R);
  }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t i, std::int64_t t, std::int64_t step) const {
    const bool pair = shape.parts == 2;
    const std::int64_t at = pair ? i + i / shape.inner * shape.inner : i;
    C u0[W], u1[W] = {}, x[W], y[W];
    load<W>(u + at, u0);
    if (pair) load<W>(u + at + shape.inner, u1);
    XAI_NO_UNROLL
    for (; t < shape.targets; t += step) {
      const T* ct = c + t * shape.parts * size() + at;
      load<W>(ct, x);
      for (int w = 0; w < W; ++w) x[w] *= u0[w];
      if (pair) {
        load<W>(ct + shape.inner, y);
        for (int w = 0; w < W; ++w) x[w] += u1[w] * y[w];
      }
      store<W>(R + t * size() + i, x);
    }
  }
};

template <class T>
struct SplitElement {
  using C = Compute<T>;
  static constexpr int kResident = 4;
  const T* a;
  T* u;
  std::int64_t outer;
  std::int64_t inner;

  XAI_HOST_DEVICE std::int64_t size() const { return outer * inner; }
  XAI_HOST_DEVICE std::int64_t targets() const { return 1; }
  bool packs() const { return inner % kPackWidth<T> == 0 && start_packs(a, u); }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t i, std::int64_t, std::int64_t) const {
    const std::int64_t at = i + i / inner * inner;
    C x[W], positive[W], negative[W];
    load<W>(a + i, x);
    for (int w = 0; w < W; ++w) {
      positive[w] = x[w] < 0 ? C(0) : x[w];  // a NaN is in both, as clamp has it
      negative[w] = x[w] > 0 ? C(0) : x[w];
    }
    store<W>(u + at, positive);
    store<W>(u + at + inner, negative);
  }
};

}  // namespace xaifast
