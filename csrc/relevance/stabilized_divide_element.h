// One step of stabilized_divide (contract: stabilized_divide.h), as a CUDA thread does it; see
// common/grid.h.
#pragma once

#include "common/pack.h"
#include "relevance/stabilized_divide.h"

namespace xaifast {

template <class T>
struct DivideElement {
  using C = Compute<T>;
  static constexpr int kResident = 4;
  const T* R;
  const T* z;
  const T* b;
  T* s;
  DivideShape shape;
  C eps;

  XAI_HOST_DEVICE std::int64_t size() const { return shape.rows * shape.length; }
  XAI_HOST_DEVICE std::int64_t targets() const { return shape.targets; }

  bool packs() const {
    constexpr std::int64_t W = kPackWidth<T>;
    const bool targets_start_packs = shape.targets == 1 || size() % W == 0;
    const bool rows_start_packs = b == nullptr || shape.length % W == 0;
    const bool biases_start_packs = !shape.channels_last || start_packs(b);
    return targets_start_packs && rows_start_packs && biases_start_packs && start_packs(R, z, s);
  }

  // z[i, i + W) += b, where the W positions lie in one row.
  template <int W>
  XAI_HOST_DEVICE void add_bias(std::int64_t i, C (&zi)[W]) const {
    const std::int64_t row = i / shape.length;
    C bi[W];
    if (shape.channels_last) {
      load<W>(b + i - row * shape.length, bi);
    } else {
      const C one = widen<T>(b[row % shape.channels]);
      for (int w = 0; w < W; ++w) bi[w] = one;
    }
    for (int w = 0; w < W; ++w) zi[w] += bi[w];
  }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t i, std::int64_t t, std::int64_t step) const {
    C zi[W], x[W];
    load<W>(z + i, zi);
    if (b != nullptr) add_bias<W>(i, zi);
    XAI_NO_UNROLL
    for (; t < shape.targets; t += step) {
      load<W>(R + t * size() + i, x);
      for (int w = 0; w < W; ++w) x[w] = stabilized_quotient<C>(x[w], zi[w], eps);
      store<W>(s + t * size() + i, x);
    }
  }
};

}  // namespace xaifast
