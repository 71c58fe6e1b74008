// What happens to sums before they leave the registers: the division behind the first product, the
// multiplication behind the second. A call takes W neighbouring channels from k or j on, which must
// start a pack of memory if W > 1.
#pragma once

#include "common/pack.h"
#include "zplus_conv/conv.h"

namespace xaifast {

// s[t, o, k] = R[t, o, k] / (z + b + eps sgn(z + b)) for all targets t; position counts [batch,
// out_0, out_1].
template <class T>
struct DivideEpilogue {
  using C = Compute<T>;
  const T *R, *b;
  T* s;
  std::int64_t outputs, channels, targets;
  C eps;

  template <int W>
  XAI_HOST_DEVICE void operator()(std::int64_t position, std::int64_t k, const C (&z)[1][W]) const {
    C d[W] = {}, x[W];
    if (b != nullptr) load<W>(b + k, d);
    for (int w = 0; w < W; ++w) d[w] += z[0][w];
    const std::int64_t at = position * channels + k;
    XAI_NO_UNROLL
    for (std::int64_t t = 0; t < targets; ++t) {
      load<W>(R + t * outputs + at, x);
      for (int w = 0; w < W; ++w) x[w] = stabilized_quotient<C>(x[w], d[w], eps);
      store<W>(s + t * outputs + at, x);
    }
  }
};

// R[t, i] = sum_p u_p(a_i) c_p[t, i], the position counts [targets, batch, in_0, in_1].
template <class T, int kTerms>
struct MultiplyEpilogue {
  using C = Compute<T>;
  const T* a;
  T* r;
  std::int64_t positions, channels;  // of one target
  const ConvShape* shape;

  template <int W>
  XAI_HOST_DEVICE void operator()(std::int64_t position, std::int64_t j,
                                  const C (&c)[kTerms][W]) const {
    C aj[W], x[W];
    load<W>(a + position % positions * channels + j, aj);
    for (int w = 0; w < W; ++w) {
      x[w] = input_term<C>(*shape, 0, j + w, aj[w]) * c[0][w];
      if constexpr (kTerms == 2) {
        if (shape->terms() == 2) x[w] += input_term<C>(*shape, 1, j + w, aj[w]) * c[1][w];
      }
    }
    store<W>(r + position * channels + j, x);
  }
};

template <class T>
XAI_HOST_DEVICE inline DivideEpilogue<T> divide_epilogue(const ConvShape& p,
                                                         const ConvTensors<T>& x, double eps) {
  return {x.R, x.b, x.s, p.outputs(), p.groups * p.units, p.targets, static_cast<Compute<T>>(eps)};
}

template <int kTerms, class T>
XAI_HOST_DEVICE inline MultiplyEpilogue<T, kTerms> multiply_epilogue(const ConvShape& p,
                                                                     const ConvTensors<T>& x) {
  return {x.a, x.r, p.batch * p.in[0] * p.in[1], p.groups * p.channels, &p};
}

}  // namespace xaifast
