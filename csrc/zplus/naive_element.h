// The formulas of conv.h as they stand, one result for each thread (common/grid.h): the oracle of
// the fast kernels, and the kernel of what they do not take (float64).
#pragma once

#include "common/pack.h"
#include "zplus/epilogue.h"

namespace xaifast {

template <class T>
struct NaiveDivide {
  using C = Compute<T>;
  static constexpr int kResident = 2;
  ConvShape p;
  ConvTensors<T> x;
  double eps;

  XAI_HOST_DEVICE std::int64_t size() const { return p.outputs(); }
  XAI_HOST_DEVICE std::int64_t targets() const { return 1; }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t i, std::int64_t, std::int64_t) const {
    static_assert(W == 1);
    const std::int64_t K = p.groups * p.units, k = i % K, group = k / p.units;
    const std::int64_t position = i / K, o1 = position % p.out[1],
                       o0 = position / p.out[1] % p.out[0], n = position / p.out[1] / p.out[0];
    C z[1][1] = {};
    XAI_NO_UNROLL
    for (std::int64_t tap = 0; tap < p.taps(); ++tap) {
      const std::int64_t i0 = o0 * p.stride[0] - p.padding[0] + tap / p.kernel[1] * p.dilation[0];
      const std::int64_t i1 = o1 * p.stride[1] - p.padding[1] + tap % p.kernel[1] * p.dilation[1];
      if (i0 < 0 || i0 >= p.in[0] || i1 < 0 || i1 >= p.in[1]) continue;
      const T* a =
          x.a + ((n * p.in[0] + i0) * p.in[1] + i1) * p.groups * p.channels + group * p.channels;
      const T* w = x.w + (k * p.taps() + tap) * p.channels;
      XAI_NO_UNROLL
      for (std::int64_t c = 0; c < p.channels; ++c) {
        for (int t = 0; t < p.terms(); ++t) {
          z[0][0] +=
              input_term<C>(p, t, c, widen<T>(a[c])) * weight_term<C>(p.rule, t, widen<T>(w[c]));
        }
      }
    }
    divide_epilogue(p, x, eps)(position, k, z);
  }
};

template <class T>
struct NaiveMultiply {
  using C = Compute<T>;
  static constexpr int kResident = 2;
  ConvShape p;
  ConvTensors<T> x;

  XAI_HOST_DEVICE std::int64_t size() const { return p.targets * p.inputs(); }
  XAI_HOST_DEVICE std::int64_t targets() const { return 1; }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t i, std::int64_t, std::int64_t) const {
    static_assert(W == 1);
    const std::int64_t J = p.groups * p.channels, j = i % J, group = j / p.channels;
    const std::int64_t position = i / J, i1 = position % p.in[1], i0 = position / p.in[1] % p.in[0],
                       image = position / p.in[1] / p.in[0];
    C c[2][1] = {};
    XAI_NO_UNROLL
    for (std::int64_t tap = 0; tap < p.taps(); ++tap) {
      const std::int64_t d0 = i0 + p.padding[0] - tap / p.kernel[1] * p.dilation[0];
      const std::int64_t d1 = i1 + p.padding[1] - tap % p.kernel[1] * p.dilation[1];
      const std::int64_t o0 = d0 / p.stride[0], o1 = d1 / p.stride[1];
      if (d0 < 0 || d1 < 0 || o0 * p.stride[0] != d0 || o1 * p.stride[1] != d1) continue;
      if (o0 >= p.out[0] || o1 >= p.out[1]) continue;
      const T* s =
          x.s + ((image * p.out[0] + o0) * p.out[1] + o1) * p.groups * p.units + group * p.units;
      const T* w = x.w_t + (j * p.taps() + tap) * p.units;
      XAI_NO_UNROLL
      for (std::int64_t k = 0; k < p.units; ++k) {
        c[0][0] += weight_term<C>(p.rule, 0, widen<T>(w[k])) * widen<T>(s[k]);
        c[1][0] += weight_term<C>(p.rule, 1, widen<T>(w[k])) * widen<T>(s[k]);  // or not used
      }
    }
    multiply_epilogue<2>(p, x)(position, j, c);
  }
};

}  // namespace xaifast
