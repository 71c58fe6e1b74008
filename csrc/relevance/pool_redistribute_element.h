// One step of pool_redistribute (contract: pool_redistribute.h), as a CUDA thread does it; see
// common/grid.h. The gather form: a thread owns one input i and visits the windows that hold it, in
// row-major order, so that nothing is shared and each sum has one order. Whether i wins a window,
// and the window's sum, is found again for each of its inputs: |window|^2 reads in cache instead of
// a second pass over memory. Sums stay in Compute<T> and are rounded once.
//
// Index is std::int32_t where fits_32_bits(shape), which halves registers and divisions; else
// std::int64_t.
#pragma once

#include <cstdint>
#include <limits>

#include "common/pack.h"
#include "relevance/pool_redistribute.h"

namespace xaifast {

template <class Index>
struct PoolAxis {
  Index in, out, kernel, stride, padding, dilation;

  XAI_HOST_DEVICE PoolAxis(const PoolShape& p, int d)
      : in(static_cast<Index>(p.in[d])),
        out(static_cast<Index>(p.out[d])),
        kernel(static_cast<Index>(p.kernel[d])),
        stride(static_cast<Index>(p.stride[d])),
        padding(static_cast<Index>(p.padding[d])),
        dilation(static_cast<Index>(p.dilation[d])) {}
};

// a / b where b is mostly 1: a division of integers is a long routine on a GPU.
template <class Index>
XAI_HOST_DEVICE inline Index quotient(Index a, Index b) {
  return b == 1 ? a : a / b;
}

template <class Index>
struct Span {
  Index begin;
  Index end;
};

// Windows along one axis that may hold input i; without dilation all of them do.
template <class Index>
XAI_HOST_DEVICE inline Span<Index> windows_around(const PoolAxis<Index>& x, Index i) {
  const Index high = i + x.padding;  // low <= o * stride <= high
  const Index low = high - (x.kernel - 1) * x.dilation;
  const Index end = quotient(high, x.stride) + 1;
  return {low <= 0 ? Index{0} : quotient<Index>(low + x.stride - 1, x.stride),
          end < x.out ? end : x.out};
}

template <class Index>
XAI_HOST_DEVICE inline bool window_holds(const PoolAxis<Index>& x, Index o, Index i) {
  const Index distance = i + x.padding - o * x.stride;
  return quotient(distance, x.dilation) * x.dilation == distance;
}

// Calls f(window o, number of o) for each window that holds input i, in row-major order.
template <class Index, class F>
XAI_HOST_DEVICE inline void for_each_window(const PoolShape& p, const Index (&i)[3], const F& f) {
  const PoolAxis<Index> x0(p, 0), x1(p, 1), x2(p, 2);
  const auto s0 = windows_around(x0, i[0]);
  const auto s1 = windows_around(x1, i[1]);
  const auto s2 = windows_around(x2, i[2]);
  Index o[3];
  for (o[0] = s0.begin; o[0] < s0.end; ++o[0]) {
    if (!window_holds(x0, o[0], i[0])) continue;
    for (o[1] = s1.begin; o[1] < s1.end; ++o[1]) {
      if (!window_holds(x1, o[1], i[1])) continue;
      for (o[2] = s2.begin; o[2] < s2.end; ++o[2]) {
        if (window_holds(x2, o[2], i[2])) f(o, (o[0] * x1.out + o[1]) * x2.out + o[2]);
      }
    }
  }
}

// Inputs begin, begin + dilation, ... < end of window o along one axis, cut at the borders.
template <class Index>
XAI_HOST_DEVICE inline Span<Index> inputs_of(const PoolAxis<Index>& x, Index o) {
  const Index begin = o * x.stride - x.padding;
  const Index end = begin + (x.kernel - 1) * x.dilation + 1;
  const Index cut =
      begin < 0 ? quotient<Index>(x.dilation - 1 - begin, x.dilation) * x.dilation : Index{0};
  return {begin + cut, end < x.in ? end : x.in};
}

// Whether f(number of the input) holds for all inputs of window o: asked in row-major order, up to
// the first for which it does not.
template <class Index, class F>
XAI_HOST_DEVICE inline bool all_inputs(const PoolShape& p, const Index (&o)[3], const F& f) {
  const PoolAxis<Index> x0(p, 0), x1(p, 1), x2(p, 2);
  const auto s0 = inputs_of(x0, o[0]);
  const auto s1 = inputs_of(x1, o[1]);
  const auto s2 = inputs_of(x2, o[2]);
  for (Index i0 = s0.begin; i0 < s0.end; i0 += x0.dilation) {
    for (Index i1 = s1.begin; i1 < s1.end; i1 += x1.dilation) {
      for (Index i2 = s2.begin; i2 < s2.end; i2 += x2.dilation) {
        if (!f((i0 * x1.in + i1) * x2.in + i2)) return false;
      }
    }
  }
  return true;
}

inline std::int64_t volume(const std::int64_t (&size)[3]) { return size[0] * size[1] * size[2]; }

// Whether no index of one (outer, all inner), and nothing on the way to it, leaves 32 bits.
inline bool fits_32_bits(const PoolShape& p) {
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
  bool fits = p.outer * volume(p.in) * p.inner <= kMax && volume(p.out) * p.inner <= kMax;
  for (int d = 0; d < 3; ++d) {
    fits &= p.in[d] + 2 * p.padding[d] + p.stride[d] + p.kernel[d] * p.dilation[d] <= kMax;
  }
  return fits;
}

template <class T, PoolRule kRule, class Index>
struct PoolElement {
  using C = Compute<T>;
  static constexpr int kResident = sizeof(Index) == 8 ? 2 : sizeof(C) == 8 ? 3 : 4;  // no spills
  static constexpr int kTogether = 4;  // targets that share one visit of the windows
  const T* a;
  const T* R;
  T* r;
  PoolShape shape;
  C eps;

  // Where a thread stands: input i, its number within (outer, inner), and the first input and
  // output of that (outer, inner) in memory.
  struct Place {
    Index i[3];
    Index number;
    std::int64_t input;
    std::int64_t output;
  };

  XAI_HOST_DEVICE std::int64_t inputs() const {
    return shape.in[0] * shape.in[1] * shape.in[2] * shape.inner;
  }
  XAI_HOST_DEVICE std::int64_t outputs() const {
    return shape.out[0] * shape.out[1] * shape.out[2] * shape.inner;
  }
  XAI_HOST_DEVICE std::int64_t size() const { return shape.outer * inputs(); }
  XAI_HOST_DEVICE std::int64_t targets() const {
    return (shape.targets + kTogether - 1) / kTogether;
  }

  XAI_HOST_DEVICE Place place_of(Index position) const {
    const PoolAxis<Index> x0(shape, 0), x1(shape, 1), x2(shape, 2);
    const auto inner = static_cast<Index>(shape.inner);
    const Index pixel = quotient(position, inner);
    const Index line = pixel / x2.in;
    const Index plane = quotient(line, x1.in);
    const Index outer = quotient(plane, x0.in);
    const Index c = position - pixel * inner;
    return {{plane - outer * x0.in, line - plane * x1.in, pixel - line * x2.in},
            pixel - outer * (x0.in * x1.in * x2.in),
            outer * inputs() + c,
            outer * outputs() + c};
  }

  // Whether input `mine`, with the value v, is the first largest of window o. A NaN is larger than
  // any number, and the first NaN the largest.
  XAI_HOST_DEVICE bool wins(const T* a0, const Index (&o)[3], Index mine, C v) const {
    return all_inputs(shape, o, [&](Index other) {
      const C x = widen<T>(a0[other * static_cast<Index>(shape.inner)]);
      return other < mine ? x == x && !(v <= x) : x <= v || v != v;
    });
  }

  XAI_HOST_DEVICE C window_sum(const T* a0, const Index (&o)[3]) const {
    C z = 0;
    all_inputs(shape, o, [&](Index other) {
      z += widen<T>(a0[other * static_cast<Index>(shape.inner)]);
      return true;
    });
    return z;
  }

  // sum[k] += what window o passes on to input `mine` for target k < n; Ro is its relevance.
  XAI_HOST_DEVICE void add_window(const T* a0, const Index (&o)[3], Index mine, C v, const T* Ro,
                                  std::int64_t n, C (&sum)[kTogether]) const {
    const std::int64_t next = shape.outer * outputs();  // distance between targets
    if constexpr (kRule == PoolRule::kWinnerTakeAll) {
      if (!wins(a0, o, mine, v)) return;
      for (int k = 0; k < kTogether; ++k) {
        if (k < n) sum[k] += widen<T>(Ro[k * next]);
      }
    } else {
      const C z = window_sum(a0, o);
      for (int k = 0; k < kTogether; ++k) {
        if (k < n) sum[k] += v * stabilized_quotient<C>(widen<T>(Ro[k * next]), z, eps);
      }
    }
  }

  // r[i] of the n <= kTogether targets from t on (of the first kTogether, if n is larger).
  XAI_HOST_DEVICE void gather(const Place& at, std::int64_t t, std::int64_t n) const {
    const auto inner = static_cast<Index>(shape.inner);
    const T* a0 = a + at.input;
    const T* R0 = R + t * shape.outer * outputs() + at.output;
    const C v = widen<T>(a0[at.number * inner]);
    C sum[kTogether] = {};
    for_each_window(shape, at.i, [&](const Index(&o)[3], Index number) {
      add_window(a0, o, at.number, v, R0 + number * inner, n, sum);
    });
    T* ri = r + t * size() + at.input + at.number * inner;
    for (int k = 0; k < kTogether; ++k) {
      if (k < n) ri[k * size()] = narrow<T>(sum[k]);
    }
  }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t position, std::int64_t row, std::int64_t step) const {
    static_assert(W == 1);
    const Place at = place_of(static_cast<Index>(position));
    XAI_NO_UNROLL
    for (; row < targets(); row += step) {
      const std::int64_t t = row * kTogether;
      gather(at, t, shape.targets - t);
    }
  }
};

}  // namespace xaifast
