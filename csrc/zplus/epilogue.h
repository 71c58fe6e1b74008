// What happens to a sum before it leaves the registers: the division behind the first product, the
// multiplication behind the second.
#pragma once

#include "common/pack.h"
#include "zplus/conv.h"

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

  XAI_HOST_DEVICE void operator()(std::int64_t position, std::int64_t k, const C (&z)[1]) const {
    const C d = b == nullptr ? z[0] : z[0] + widen<T>(b[k]);
    const std::int64_t at = position * channels + k;
    XAI_NO_UNROLL
    for (std::int64_t t = 0; t < targets; ++t) {
      s[t * outputs + at] =
          narrow<T>(stabilized_quotient<C>(widen<T>(R[t * outputs + at]), d, eps));
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

  XAI_HOST_DEVICE void operator()(std::int64_t position, std::int64_t j,
                                  const C (&c)[kTerms]) const {
    const C aj = widen<T>(a[position % positions * channels + j]);
    C x = input_term<C>(*shape, 0, j, aj) * c[0];
    if constexpr (kTerms == 2) {
      if (shape->terms() == 2) x += input_term<C>(*shape, 1, j, aj) * c[1];
    }
    r[position * channels + j] = narrow<T>(x);
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
