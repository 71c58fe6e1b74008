// Checks and layout of the relevance ops, shared by the CPU and the CUDA glue: turns tensors into
// the plain shapes that the kernels take. Knows PyTorch, as does ops.h; the kernels do not.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <vector>

#include "common/tensors.h"
#include "relevance/add_split.h"
#include "relevance/multiply_parts.h"
#include "relevance/pool_redistribute.h"
#include "relevance/stabilized_divide.h"

namespace xaifast {

// R is [*shape] or [targets, *shape]; returns the number of targets (1 where there is no such
// axis).
inline std::int64_t count_targets(const char* op, const at::Tensor& R, at::IntArrayRef shape,
                                  const char* shape_of) {
  const auto sizes = R.sizes();
  const bool plain = sizes == shape;
  checked_product(op, "R", sizes);
  TORCH_CHECK_VALUE(plain || (sizes.size() == shape.size() + 1 && sizes.slice(1) == shape), op,
                    ": R must have the shape of ", shape_of, " ", shape,
                    " or one leading axis of targets more, got ", sizes);
  return plain ? 1 : sizes[0];
}

// x as [n, ...] dense in `format`; x is [...] or [targets, ...] with `dims` trailing dimensions.
inline at::Tensor dense(const at::Tensor& x, std::int64_t dims, at::MemoryFormat format) {
  const at::Tensor flat = x.dim() > dims ? x.flatten(0, x.dim() - dims) : x;
  return flat.contiguous(format);
}

// Product of the sizes behind dimension 1 (the positions of an image).
inline std::int64_t positions(const at::Tensor& x) { return product_of(x.sizes().slice(2)); }

// ---- stabilized_divide ------------------------------------------------------------------------

struct Divide {
  at::Tensor R, z, b;
  DivideShape shape;
  const void* bias() const { return b.defined() ? b.const_data_ptr() : nullptr; }
};

inline Divide plan_divide(const char* op, const at::Tensor& R, const at::Tensor& z,
                          const std::optional<at::Tensor>& b) {
  check_dtype(op, "z", z);
  check_like(op, "R", R, "z", z);
  TORCH_CHECK_VALUE(z.dim() >= 1, op, ": z must have at least one dimension, got a number");
  const auto format = layout_of(z);
  Divide d;
  d.shape.targets = count_targets(op, R, z.sizes(), "z");
  d.R = dense(R, z.dim(), format);
  d.z = z.contiguous(format);
  d.shape.rows = z.numel();
  d.shape.length = 1;
  d.shape.channels = 1;
  d.shape.channels_last = is_channels_last(format);
  if (b.has_value() && b->defined()) {
    check_like(op, "b", *b, "z", z);
    TORCH_CHECK_VALUE(z.dim() >= 2 && b->dim() == 1 && b->size(0) == z.size(1), op,
                      ": b must have one value per channel (dimension 1 of z ", z.sizes(),
                      "), got shape ", b->sizes());
    const bool last = d.shape.channels_last || z.dim() == 2;
    d.b = b->contiguous();
    d.shape.channels_last = last;
    d.shape.channels = z.size(1);
    d.shape.length = last ? z.size(1) : positions(z);
    d.shape.rows = d.shape.length == 0 ? 0 : z.numel() / d.shape.length;
  }
  return d;
}

// ---- multiply_parts and split_signs -----------------------------------------------------------

// u is [N, parts x C, ...]: where the parts lie in memory for this layout.
inline PartsShape parts_shape(const at::Tensor& u, std::int64_t parts, std::int64_t targets) {
  const bool last = is_channels_last(layout_of(u)) || u.dim() == 2;
  const std::int64_t channels = u.size(1) / parts;
  const std::int64_t space = positions(u);
  return {targets, last ? u.size(0) * space : u.size(0), parts, last ? channels : channels * space};
}

struct Product {
  at::Tensor u, c, R;
  PartsShape shape;
};

inline Product plan_product(const char* op, const at::Tensor& u, const at::Tensor& c,
                            std::int64_t parts, bool in_place) {
  check_dtype(op, "u", u);
  check_like(op, "c", c, "u", u);
  TORCH_CHECK_VALUE(parts == 1 || parts == 2, op, ": parts must be 1 or 2, got ", parts);
  TORCH_CHECK_VALUE(u.dim() >= 2 && u.size(1) % parts == 0, op,
                    ": u must be [N, parts x C, ...], got ", u.sizes(), " with parts=", parts);
  const std::int64_t n = u.size(0);
  TORCH_CHECK_VALUE(c.dim() == u.dim() && c.sizes().slice(1) == u.sizes().slice(1) &&
                        (n == 0 ? c.size(0) == 0 : c.size(0) % n == 0),
                    op, ": c must be [targets x N, ...] for u ", u.sizes(), ", got ", c.sizes());
  checked_product(op, "c", c.sizes());
  const auto format = layout_of(u);
  Product p;
  p.u = u.contiguous(format);
  p.c = c.contiguous(format);
  p.shape = parts_shape(p.u, parts, n == 0 ? 0 : c.size(0) / n);
  if (in_place && parts == 1) {
    p.R = p.c;
  } else {
    auto sizes = c.sizes().vec();
    sizes[1] /= parts;
    p.R = at::empty(sizes, c.options().memory_format(format));
  }
  return p;
}

struct Split {
  at::Tensor a, u;
  PartsShape shape;
};

inline Split plan_split(const at::Tensor& a) {
  constexpr const char* op = "split_signs";
  check_dtype(op, "a", a);
  TORCH_CHECK_VALUE(a.dim() >= 2, op, ": a must be [N, C, ...], got ", a.sizes());
  checked_product(op, "a", a.sizes());
  const auto format = layout_of(a);
  auto sizes = a.sizes().vec();
  sizes[1] *= 2;
  Split s{a.contiguous(format), at::empty(sizes, a.options().memory_format(format)), {}};
  s.shape = parts_shape(s.u, 2, 1);
  return s;
}

// ---- add_split --------------------------------------------------------------------------------

struct Sum {
  at::Tensor x, y, R, Rx, Ry;
  SumShape shape;
};

inline Sum plan_sum(const at::Tensor& x, const at::Tensor& y, const at::Tensor& R, double beta,
                    double eps) {
  constexpr const char* op = "add_split";
  check_dtype(op, "x", x);
  check_like(op, "y", y, "x", x);
  check_like(op, "R", R, "x", x);
  TORCH_CHECK_VALUE(x.sizes() == y.sizes(), op, ": x and y must have the same shape, got ",
                    x.sizes(), " and ", y.sizes());
  TORCH_CHECK_VALUE(x.dim() >= 1, op, ": x must have at least one dimension, got a number");
  const auto format = layout_of(x);
  Sum s;
  s.shape = {count_targets(op, R, x.sizes(), "x"), x.numel(), beta, eps};
  s.x = x.contiguous(format);
  s.y = y.contiguous(format);
  s.R = dense(R, x.dim(), format);
  s.Rx = at::empty(s.R.sizes(), s.R.options().memory_format(format));
  s.Ry = at::empty(s.R.sizes(), s.R.options().memory_format(format));
  return s;
}

// ---- pool_redistribute ------------------------------------------------------------------------

struct Pool {
  at::Tensor a, R, r;
  PoolShape shape;
  PoolRule rule;
};

inline PoolRule pool_rule(std::string_view rule) {
  if (rule == "winner_take_all") return PoolRule::kWinnerTakeAll;
  TORCH_CHECK_VALUE(rule == "proportional",
                    "pool_redistribute: rule must be 'winner_take_all' or 'proportional', got '",
                    std::string(rule), "'");
  return PoolRule::kProportional;
}

// Outputs of a pooling along one axis: rounded down, or up (ceil mode) where the last window still
// starts inside the input or the padding before it.
inline bool is_pool_size(std::int64_t in, std::int64_t out, std::int64_t kernel,
                         std::int64_t stride, std::int64_t padding, std::int64_t dilation) {
  const std::int64_t span = in + 2 * padding - dilation * (kernel - 1) - 1;
  const std::int64_t floor = span < 0 ? 0 : span / stride + 1;
  return out == floor || (out == floor + 1 && (out - 1) * stride < in + padding);
}

inline Pool plan_pool(const at::Tensor& a, const at::Tensor& R, at::IntArrayRef kernel,
                      at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                      std::string_view rule) {
  constexpr const char* op = "pool_redistribute";
  check_dtype(op, "a", a);
  check_like(op, "R", R, "a", a);
  const auto d = static_cast<std::int64_t>(kernel.size());
  TORCH_CHECK_VALUE(d >= 1 && d <= 3 && a.dim() == d + 2, op, ": a must be [N, C, ...] with ", d,
                    " positions dimensions (one per kernel size, 1 to 3), got ", a.sizes());
  check_geometry(op, "kernel", kernel, d, 1);
  check_geometry(op, "stride", stride, d, 1);
  check_geometry(op, "padding", padding, d, 0);
  check_geometry(op, "dilation", dilation, d, 1);
  const std::int64_t extra = R.dim() - a.dim();
  TORCH_CHECK_VALUE(
      (extra == 0 || extra == 1) && R.size(extra) == a.size(0) && R.size(extra + 1) == a.size(1),
      op, ": R must be [N, C, ...] or [targets, N, C, ...] for a ", a.sizes(), ", got ", R.sizes());
  auto sizes = a.sizes().vec();
  sizes.insert(sizes.begin(), extra == 1 ? R.size(0) : 1);
  checked_product(op, "the result", sizes);
  checked_product(op, "R", R.sizes());
  const auto format = layout_of(a);
  const bool last = is_channels_last(format);
  Pool p;
  p.rule = pool_rule(rule);
  p.a = a.contiguous(format);
  p.R = dense(R, a.dim(), format);
  p.shape.targets = extra == 1 ? R.size(0) : 1;
  p.shape.outer = last ? a.size(0) : a.size(0) * a.size(1);
  p.shape.inner = last ? a.size(1) : 1;
  for (std::int64_t i = 0; i < 3; ++i) {
    const std::int64_t j = i - (3 - d);  // missing dimensions come first and have size 1
    p.shape.in[i] = j < 0 ? 1 : a.size(2 + j);
    p.shape.out[i] = j < 0 ? 1 : p.R.size(2 + j);
    p.shape.kernel[i] = j < 0 ? 1 : kernel[j];
    p.shape.stride[i] = j < 0 ? 1 : stride[j];
    p.shape.padding[i] = j < 0 ? 0 : padding[j];
    p.shape.dilation[i] = j < 0 ? 1 : dilation[j];
  }
  std::int64_t window = 1;  // inputs of one, which kernels count in 32 bits
  for (std::int64_t i = 3 - d; i < 3; ++i) {
    const PoolShape& q = p.shape;
    window *= std::min(q.kernel[i], q.in[i]);
    TORCH_CHECK_VALUE(window < std::int64_t{1} << 31, op,
                      ": a window must have less than 2^31 elements, got kernel ", kernel);
    TORCH_CHECK_VALUE(
        is_pool_size(q.in[i], q.out[i], q.kernel[i], q.stride[i], q.padding[i], q.dilation[i]), op,
        ": R ", R.sizes(), " is not the size of a pooling of a ", a.sizes(), " with kernel ",
        kernel, ", stride ", stride, ", padding ", padding, " and dilation ", dilation);
  }
  sizes.erase(sizes.begin());
  sizes[0] *= p.shape.targets;
  p.r = at::empty(sizes, a.options().memory_format(format));
  return p;
}

// ---- backward_product -------------------------------------------------------------------------

inline void check_backward_product(const at::Tensor& s, const at::Tensor& w) {
  constexpr const char* op = "backward_product";
  check_dtype(op, "s", s);
  check_like(op, "w", w, "s", s);
  TORCH_CHECK_VALUE(s.dim() == 2 && w.dim() == 2 && s.size(1) == w.size(0), op,
                    ": s must be [m, K] and w [K, J], got ", s.sizes(), " and ", w.sizes());
  checked_product(op, "the result", {s.size(0), w.size(1)});
}

// x is [targets x N, ...]: as the shape of R asked for, with the axis of targets if R had one.
inline at::Tensor with_targets(const at::Tensor& x, const at::Tensor& R, std::int64_t dims) {
  return R.dim() > dims ? x.unflatten(0, {R.size(0), R.size(1)}) : x;
}

}  // namespace xaifast
