// One unit of an LSTM or a GRU in one step, forward and back in relevance (book, section 11.3): the
// same text for the CPU and CUDA. Letters: cell.h.
#pragma once

#include "common/activations.h"
#include "recurrent/cell.h"

namespace xaifast {

template <class C>
struct Shares {
  C gate, signal;
};

// Table 11.1; z_g and z_s are the pre-activations.
template <GateRule rule, class C>
XAI_HOST_DEVICE XAI_ALWAYS_INLINE Shares<C> gated_product(C z_g, C z_s, C R, C eps) {
  if constexpr (rule == GateRule::kAll) {
    return {C(0), R};
  } else if constexpr (rule == GateRule::kHalf) {
    return {C(0.5) * R, C(0.5) * R};
  } else {
    if constexpr (rule == GateRule::kAbs) {
      z_g = z_g < C(0) ? -z_g : z_g;
      z_s = z_s < C(0) ? -z_s : z_s;
    }
    const C s = stabilized_quotient(R, z_g + z_s, eps);
    return {z_g * s, z_s * s};
  }
}

// c' = f c + i g,   h' = o tanh(c')
template <class C>
XAI_HOST_DEVICE XAI_ALWAYS_INLINE void lstm_unit(C z_i, C z_f, C z_g, C z_o, C c, C& c_next,
                                                 C& h_next) {
  c_next = logistic(z_f) * c + logistic(z_i) * hyperbolic_tangent(z_g);
  h_next = logistic(z_o) * hyperbolic_tangent(c_next);
}

// From R_h and R_c of the next state: s of the four maps, and R_c of this one. d is z without what
// the denominators leave out. kAll writes s[2] alone.
template <GateRule rule, class C>
XAI_HOST_DEVICE XAI_ALWAYS_INLINE void lstm_unit_back(const C (&z)[4], const C (&d)[4], C c,
                                                      C c_next, C R_h, C& R_c, C eps, C (&s)[4]) {
  const Shares<C> out = gated_product<rule>(z[3], c_next, R_h, eps);
  const C s_c = stabilized_quotient(R_c + out.signal, c_next, eps);
  const Shares<C> in =
      gated_product<rule>(z[0], z[2], logistic(z[0]) * hyperbolic_tangent(z[2]) * s_c, eps);
  const Shares<C> kept = gated_product<rule>(z[1], c, logistic(z[1]) * c * s_c, eps);
  R_c = kept.signal;
  s[2] = stabilized_quotient(in.signal, d[2], eps);
  if constexpr (rule != GateRule::kAll) {
    s[0] = stabilized_quotient(in.gate, d[0], eps);
    s[1] = stabilized_quotient(kept.gate, d[1], eps);
    s[3] = stabilized_quotient(out.gate, d[3], eps);
  }
}

// z_n = a_n + r m,   h' = (1 - u) n + u h
template <class C>
XAI_HOST_DEVICE XAI_ALWAYS_INLINE void gru_unit(const C (&a)[3], const C (&q)[3], C h, C (&z)[4],
                                                C& h_next) {
  z[0] = a[0] + q[0];
  z[1] = a[1] + q[1];
  z[2] = a[2] + logistic(z[0]) * q[2];
  z[3] = q[2];
  h_next = logistic(-z[1]) * hyperbolic_tangent(z[2]) + logistic(z[1]) * h;
}

// From R_h of the next state: s of r, u, n and m, and what h gets without a map.
template <GateRule rule, class C>
XAI_HOST_DEVICE XAI_ALWAYS_INLINE void gru_unit_back(const C (&z)[4], const C (&d)[4], C h,
                                                     C h_next, C R_h, C& direct, C eps, C (&s)[4]) {
  const C s_h = stabilized_quotient(R_h, h_next, eps);
  const Shares<C> fresh = gated_product<rule>(
      -z[1], z[2], logistic(-z[1]) * hyperbolic_tangent(z[2]) * s_h, eps);  // 1 - u
  const Shares<C> kept = gated_product<rule>(z[1], h, logistic(z[1]) * h * s_h, eps);
  direct = kept.signal;
  s[2] = stabilized_quotient(fresh.signal, d[2], eps);
  const Shares<C> past = gated_product<rule>(z[0], z[3], logistic(z[0]) * z[3] * s[2], eps);
  s[3] = stabilized_quotient(past.signal, d[3], eps);
  if constexpr (rule != GateRule::kAll) {
    s[0] = stabilized_quotient(past.gate, d[0], eps);
    s[1] = stabilized_quotient(kept.gate + fresh.gate, d[1], eps);
  }
}

}  // namespace xaifast
