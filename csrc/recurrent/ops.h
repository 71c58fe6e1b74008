// The recurrent ops on any device: check and allocate, then run. A Backend has static functions
// `states(States)` and `relprop(Relprop)`: over threads (ops_cpu.cpp) or on a stream
// (ops_cuda.cpp). Contracts: library.cpp.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "common/tensors.h"
#include "recurrent/cell.h"

namespace xaifast {

inline void check_recurrent(const char* op, const char* name, const at::Tensor& x,
                            const at::Tensor& like, at::IntArrayRef sizes) {
  check_like(op, name, x, "z or a", like);
  TORCH_CHECK_VALUE(x.sizes() == sizes, op, ": ", name, " must have the shape ", sizes, ", got ",
                    x.sizes());
}

inline void check_width(const char* op, const at::Tensor& a) {
  const auto t = a.scalar_type();
  TORCH_CHECK_TYPE(t == at::kFloat || t == at::kDouble, op,
                   ": tensors must be float32 or float64, got ", t);
}

// The steps of each sample, or none. Values are checked where they are at hand: on the CPU.
inline at::Tensor plan_lengths(const char* op, const std::optional<at::Tensor>& lengths,
                               const at::Tensor& like, std::int64_t T, std::int64_t N) {
  if (!lengths.has_value() || !lengths->defined()) return {};
  TORCH_CHECK_TYPE(lengths->scalar_type() == at::kLong, op, ": lengths must be int64, got ",
                   lengths->scalar_type());
  TORCH_CHECK_VALUE(lengths->dim() == 1 && lengths->size(0) == N, op,
                    ": lengths must have the shape [", N, "], got ", lengths->sizes());
  TORCH_CHECK_VALUE(lengths->device() == like.device(), op, ": lengths must be on ", like.device(),
                    ", got ", lengths->device());
  const at::Tensor plain = lengths->contiguous();
  if (plain.is_cpu()) {
    const std::int64_t* const at = plain.const_data_ptr<std::int64_t>();
    for (std::int64_t n = 0; n < N; ++n) {
      TORCH_CHECK_VALUE(at[n] >= 0 && at[n] <= (n == 0 ? T : at[n - 1]), op,
                        ": lengths must decrease from at most ", T, " to at least 0, got ", at[n],
                        " at ", n);
    }
  }
  return plain;
}

// Forward, keeping z [T, N, 4 H], h [T + 1, N, H] and c, the same or (GRU) empty.
struct States {
  at::Tensor a, w, b, z, h, c, lengths;  // lengths: undefined where all have T steps
  std::int64_t T, N, H;
  bool lstm, has_bias;
};

inline States plan_states(const at::Tensor& a, const at::Tensor& w,
                          const std::optional<at::Tensor>& b, const at::Tensor& h0,
                          const std::optional<at::Tensor>& c0,
                          const std::optional<at::Tensor>& lengths) {
  constexpr const char* op = "recurrent_states";
  check_width(op, a);
  States s;
  s.lstm = c0.has_value() && c0->defined();
  TORCH_CHECK_VALUE(a.dim() == 3 && h0.dim() == 2 && a.size(0) > 0, op,
                    ": a must be [T, N, gates x H] with T > 0 and h0 [N, H], got ", a.sizes(),
                    " and ", h0.sizes());
  s.T = a.size(0), s.N = a.size(1), s.H = h0.size(1);
  checked_product(op, "the result", {s.T + 1, s.N, s.H, 4});
  const std::int64_t rows = (s.lstm ? 4 : 3) * s.H;
  check_recurrent(op, "a", a, a, {s.T, s.N, rows});
  check_recurrent(op, "w", w, a, {rows, s.H});
  check_recurrent(op, "h0", h0, a, {s.N, s.H});
  s.b = at::zeros({rows}, a.options());
  s.has_bias = b.has_value() && b->defined();
  if (s.has_bias) {
    check_recurrent(op, "b", *b, a, {rows});
    s.b = b->contiguous();
  }
  s.a = a.contiguous();
  s.w = w.contiguous();
  s.lengths = plan_lengths(op, lengths, a, s.T, s.N);
  const auto make = [&](at::IntArrayRef sizes) {
    return s.lengths.defined() ? at::zeros(sizes, a.options()) : at::empty(sizes, a.options());
  };
  s.z = make({s.T, s.N, 4 * s.H});
  s.h = make({s.T + 1, s.N, s.H});
  s.h[0].copy_(h0);
  s.c = make({s.T + 1, s.N, s.lstm ? s.H : 0});
  if (s.lstm) {
    check_recurrent(op, "c0", *c0, a, {s.N, s.H});
    s.c[0].copy_(*c0);
  }
  return s;
}

// Back in relevance: R_h and R_c are those of the last states first, of the first ones then.
struct Relprop {
  at::Tensor z, h, c, w, b, R, R_h, R_c, s, lengths;
  std::int64_t targets, T, N, H, width;  // width: of s
  bool lstm;
  GateRule rule;
  double eps;
};

inline GateRule gate_rule(std::string_view gate) {
  if (gate == "all") return GateRule::kAll;
  if (gate == "prop") return GateRule::kProp;
  if (gate == "abs") return GateRule::kAbs;
  TORCH_CHECK_VALUE(gate == "half",
                    "recurrent_relprop: gate must be 'all', 'prop', 'abs' or 'half', got '",
                    std::string(gate), "'");
  return GateRule::kHalf;
}

inline Relprop plan_relprop(const at::Tensor& z, const at::Tensor& h,
                            const std::optional<at::Tensor>& c, const at::Tensor& w,
                            const std::optional<at::Tensor>& b, const at::Tensor& R,
                            const at::Tensor& R_h, const std::optional<at::Tensor>& R_c,
                            std::string_view gate, double eps,
                            const std::optional<at::Tensor>& lengths) {
  constexpr const char* op = "recurrent_relprop";
  check_width(op, z);
  TORCH_CHECK_VALUE(z.dim() == 3 && h.dim() == 3 && R.dim() == 4 && z.size(0) > 0, op,
                    ": z must be [T, N, 4 H] with T > 0, h [T + 1, N, H] and R [targets, T, N, H],",
                    " got ", z.sizes(), ", ", h.sizes(), " and ", R.sizes());
  Relprop r;
  r.rule = gate_rule(gate);
  r.eps = eps;
  r.lstm = c.has_value() && c->defined();
  r.targets = R.size(0), r.T = z.size(0), r.N = z.size(1), r.H = h.size(2);
  checked_product(op, "the result", {r.targets, r.T + 1, r.N, r.H, 4});
  TORCH_CHECK_VALUE(r.lstm == (R_c.has_value() && R_c->defined()), op,
                    ": c and R_c go together (an LSTM has both, a GRU neither)");
  const std::int64_t rows = (r.lstm ? 4 : 3) * r.H;
  check_recurrent(op, "z", z, z, {r.T, r.N, 4 * r.H});
  check_recurrent(op, "h", h, z, {r.T + 1, r.N, r.H});
  check_recurrent(op, "w", w, z, {rows, r.H});
  check_recurrent(op, "R", R, z, {r.targets, r.T, r.N, r.H});
  check_recurrent(op, "R_h", R_h, z, {r.targets, r.N, r.H});
  r.b = at::zeros({4 * r.H}, z.options());
  if (b.has_value() && b->defined()) {
    check_recurrent(op, "b", *b, z, {4 * r.H});
    r.b = b->contiguous();
  }
  r.width = r.rule == GateRule::kAll ? r.H : rows;
  r.z = z.contiguous();
  r.h = h.contiguous();
  r.w = (r.rule == GateRule::kAll ? w.narrow(0, 2 * r.H, r.H) : w).contiguous();
  r.R = R.contiguous();
  r.R_h = at::empty(R_h.sizes(), z.options());
  r.R_h.copy_(R_h);
  r.R_c = at::empty({r.targets, r.N, r.lstm ? r.H : 0}, z.options());
  if (r.lstm) {
    check_recurrent(op, "c", *c, z, {r.T + 1, r.N, r.H});
    check_recurrent(op, "R_c", *R_c, z, {r.targets, r.N, r.H});
    r.c = c->contiguous();
    r.R_c.copy_(*R_c);
  }
  r.lengths = plan_lengths(op, lengths, z, r.T, r.N);
  const std::array<std::int64_t, 4> sizes{r.targets, r.T, r.N, r.width};
  r.s = r.lengths.defined() ? at::zeros(sizes, z.options()) : at::empty(sizes, z.options());
  return r;
}

template <class Backend>
struct RecurrentOps {
  static std::tuple<at::Tensor, at::Tensor, at::Tensor> states(
      const at::Tensor& a, const at::Tensor& w, const std::optional<at::Tensor>& b,
      const at::Tensor& h0, const std::optional<at::Tensor>& c0,
      const std::optional<at::Tensor>& lengths) {
    const States s = plan_states(a, w, b, h0, c0, lengths);
    if (s.N > 0 && s.H > 0) Backend::states(s);
    return {s.z, s.h, s.c};
  }

  static std::tuple<at::Tensor, at::Tensor, at::Tensor> relprop(
      const at::Tensor& z, const at::Tensor& h, const std::optional<at::Tensor>& c,
      const at::Tensor& w, const std::optional<at::Tensor>& b, const at::Tensor& R,
      const at::Tensor& R_h, const std::optional<at::Tensor>& R_c, std::string_view gate,
      double eps, const std::optional<at::Tensor>& lengths) {
    const Relprop r = plan_relprop(z, h, c, w, b, R, R_h, R_c, gate, eps, lengths);
    if (r.N > 0 && r.H > 0 && r.targets > 0) Backend::relprop(r);
    return {r.s, r.R_h, r.R_c};
  }

  static void add_to(torch::Library& m) {
    m.impl("recurrent_states", &states);
    m.impl("recurrent_relprop", &relprop);
  }
};

}  // namespace xaifast
