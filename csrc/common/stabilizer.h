// The stabilized quotient of every rule, on the host and on the device:
//   s = R / (z + eps sgn z),   sgn 0 = +1,   0/0 = 0 (and R/0 = 0: what cannot be passed on is
//   absorbed),   0/inf = 0, but R/inf is NaN: a sum that overflowed hides what R would reach
#pragma once

#ifdef __CUDACC__
#define XAI_HOST_DEVICE __host__ __device__
#else
#define XAI_HOST_DEVICE
#endif

namespace xaifast {

template <class C>
XAI_HOST_DEVICE inline C stabilized_quotient(C R, C z, C eps) {
  const C d = z + (z >= C(0) ? eps : -eps);
  // The division is done in any case, so that the loop stays free of branches. d - d is +0, which
  // changes no bit of R, unless d is infinite or NaN.
  const C s = (R == C(0) ? R : R + (d - d)) / d;
  return d == C(0) ? C(0) : s;
}

}  // namespace xaifast
