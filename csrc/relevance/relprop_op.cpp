// Eq. 10.2 of the book in its four steps, for convolutions and dense layers on any device:
//   z = w u + b,   s = R / (z + eps sgn z),   c = w^T s,   R_j = u c  (summed over the parts of u)
// Steps one and three go to the library that is best at them (oneDNN, cuDNN, BLAS through ATen),
// two and four to our kernels, through the dispatcher. Nothing here depends on the device.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/linear.h>
#include <torch/library.h>

#include "relevance/shapes.h"

namespace xaifast {
namespace {

// Arguments of aten::convolution, one value per position dimension. With two parts and several
// groups, each part has groups of its own.
struct ConvGeometry {
  at::IntArrayRef stride, padding, dilation;
  bool transposed;
  at::IntArrayRef output_padding;
  std::int64_t groups;
  bool parts_are_groups;
};

template <class Signature>
auto find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

at::Tensor divide(const at::Tensor& R, at::Tensor z, const std::optional<at::Tensor>& b, double eps,
                  bool z_is_ours) {
  using Fresh =
      at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double);
  using InPlace =
      at::Tensor&(at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double);
  static const auto fresh = find_op<Fresh>("xaifast::stabilized_divide");
  static const auto in_place = find_op<InPlace>("xaifast::stabilized_divide_");
  const bool one = R.dim() == z.dim() + 1 && R.size(0) == 1;  // target: s takes the place of z
  if (z_is_ours && (one || R.dim() == z.dim())) {
    return in_place.call(z, one ? R.select(0, 0) : R, b, eps);
  }
  return fresh.call(R, z, b, eps);
}

// R_j = sum of the parts of u c, written over c where there is one part.
at::Tensor multiply(const at::Tensor& u, at::Tensor c, std::int64_t parts) {
  using Fresh = at::Tensor(const at::Tensor&, const at::Tensor&, std::int64_t);
  using InPlace = at::Tensor&(at::Tensor&, const at::Tensor&);
  static const auto fresh = find_op<Fresh>("xaifast::multiply_parts");
  static const auto in_place = find_op<InPlace>("xaifast::multiply_");
  return parts == 1 ? in_place.call(c, u) : fresh.call(u, c, parts);
}

at::Tensor backward_product(const at::Tensor& s, const at::Tensor& w) {
  using Op = at::Tensor(const at::Tensor&, const at::Tensor&);
  static const auto op = find_op<Op>("xaifast::backward_product");
  return op.call(s, w);
}

// oneDNN's own op on a weight that it has packed for itself (is_mkldnn), inference only.
at::Tensor packed_convolution(const at::Tensor& x, const at::Tensor& w, const ConvGeometry& g) {
  using Op =
      at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                 at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, std::int64_t, std::string_view,
                 c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
  static const auto op = find_op<Op>("mkldnn::_convolution_pointwise");
  return op.call(x, w, std::nullopt, g.padding, g.stride, g.dilation, g.groups, "none",
                 c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

at::Tensor packed_transposed(const at::Tensor& s, const at::Tensor& w, const ConvGeometry& g,
                             at::IntArrayRef output_padding) {
  using Op = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                        at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef,
                        std::int64_t, std::string_view, c10::List<std::optional<at::Scalar>>,
                        std::optional<std::string_view>);
  static const auto op = find_op<Op>("mkldnn::_convolution_transpose_pointwise");
  return op.call(s, w, std::nullopt, g.padding, output_padding, g.stride, g.dilation, g.groups,
                 "none", c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

// The caller chose the kernel, by the weight that it made: the schema has no other word for it than
// the weight's layout. One of winograd_conv has two dimensions for a^2 and two for the panels of K,
// one that oneDNN packed is_mkldnn; anything else goes to aten::convolution.
bool is_transformed(const at::Tensor& w, const at::Tensor& x) {
  return x.dim() == 4 && w.dim() == 5;
}

at::Tensor winograd_conv(const at::Tensor& x, const at::Tensor& w) {
  using Op = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                        bool, std::int64_t);
  static const auto op = find_op<Op>("xaifast::winograd_conv");
  return op.call(x, w, std::nullopt, false, 1);
}

at::Tensor convolve_groups(const at::Tensor& u, const at::Tensor& w, const ConvGeometry& g) {
  if (is_transformed(w, u)) return winograd_conv(u, w);
  if (w.is_mkldnn()) return packed_convolution(u, w, g);
  return at::convolution(u, w, std::nullopt, g.stride, g.padding, g.dilation, g.transposed,
                         g.output_padding, g.groups);
}

// z = w u. Parts that are groups of their own (fast for depthwise convolutions, where one group
// with both parts would not be) are added here.
at::Tensor convolve(const at::Tensor& u, const at::Tensor& w, const ConvGeometry& g) {
  const at::Tensor z = convolve_groups(u, w, g);
  if (!g.parts_are_groups) return z;
  const std::int64_t K = z.size(1) / 2;
  return z.narrow(1, 0, K).add(z.narrow(1, K, K));
}

// Rows and columns that a strided convolution left over, so that w^T s has the size of u.
std::vector<std::int64_t> left_over(at::IntArrayRef u, at::IntArrayRef s, at::IntArrayRef kernel,
                                    const ConvGeometry& g) {
  std::vector<std::int64_t> pad(g.stride.size());
  for (std::size_t i = 0; i < pad.size(); ++i) {
    pad[i] = u[i + 2] - ((s[i + 2] - 1) * g.stride[i] - 2 * g.padding[i] +
                         g.dilation[i] * (kernel[i] - 1) + 1);
    TORCH_CHECK_VALUE(pad[i] >= 0 && pad[i] < std::max(g.stride[i], g.dilation[i]),
                      "relprop_conv: ",
                      "u must have the positions of which a convolution makes those of the output ",
                      s.slice(2), ", got u ", u);
  }
  return pad;
}

// c = w^T s.
at::Tensor convolve_transposed(const at::Tensor& s_, const at::Tensor& w, at::IntArrayRef u,
                               at::IntArrayRef kernel, const ConvGeometry& g) {
  if (is_transformed(w, s_)) return winograd_conv(s_, w);
  const at::Tensor s = g.parts_are_groups ? at::cat({s_, s_}, 1) : s_;
  if (g.transposed) {  // the transpose of a transposed convolution is the plain one
    at::Tensor c =
        at::convolution(s, w, std::nullopt, g.stride, g.padding, g.dilation, false, {0}, g.groups);
    // Output padding of a stride or more makes room for positions that no input has.
    for (std::int64_t d = 2; d < c.dim(); ++d) {
      TORCH_CHECK_VALUE(u[d] <= c.size(d), "relprop_conv: u must have the positions of which a ",
                        "transposed convolution makes those of the output ", s.sizes().slice(2),
                        ", got u ", u);
      c = c.narrow(d, 0, u[d]);
    }
    return c.contiguous(layout_of(c));
  }
  const auto pad = left_over(u, s.sizes(), kernel, g);
  if (w.is_mkldnn()) return packed_transposed(s, w, g, pad);
  return at::convolution(s, w, std::nullopt, g.stride, g.padding, g.dilation, true, pad, g.groups);
}

// What ATen would refuse in words about other operations. Weights that oneDNN has packed, or that
// winograd_conv takes, have shapes of their own; it and oneDNN check them.
void check_conv_weight(const char* op, const char* name, const at::Tensor& w, const at::Tensor& u,
                       at::IntArrayRef kernel, const ConvGeometry& g) {
  TORCH_CHECK_VALUE(w.device() == u.device(), op, ": ", name, " must be on the device of u (",
                    u.device(), "), got ", w.device());
  if (w.is_mkldnn() || is_transformed(w, u)) return;
  const bool fits = w.dim() == u.dim() && w.sizes().slice(2) == kernel && g.groups > 0 &&
                    (g.transposed ? w.size(0) : w.size(1) * g.groups) == u.size(1) &&
                    (g.transposed || w.size(0) % g.groups == 0);
  TORCH_CHECK_VALUE(fits, op, ": ", name, " must be the weight of a convolution of u ", u.sizes(),
                    " with kernel ", kernel, " and ", g.groups, " groups, got ", w.sizes());
}

}  // namespace

at::Tensor relprop_conv(const at::Tensor& u, const at::Tensor& R, const at::Tensor& w,
                        const at::Tensor& w_t, const std::optional<at::Tensor>& b,
                        const std::optional<at::Tensor>& z, at::IntArrayRef kernel,
                        at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                        bool transposed, at::IntArrayRef output_padding, std::int64_t groups,
                        double eps, std::int64_t parts) {
  constexpr const char* op = "relprop_conv";
  check_dtype(op, "u", u);
  check_like(op, "R", R, "u", u);
  TORCH_CHECK_VALUE(parts == 1 || parts == 2, op, ": parts must be 1 or 2, got ", parts);
  const std::int64_t dims = u.dim() - 2;
  TORCH_CHECK_VALUE(dims >= 1, op, ": u must be [N, C, ...], got ", u.sizes());
  check_geometry(op, "kernel", kernel, dims, 1);
  check_geometry(op, "stride", stride, dims, 1);
  check_geometry(op, "padding", padding, dims, 0);
  check_geometry(op, "dilation", dilation, dims, 1);
  check_geometry(op, "output_padding", output_padding, dims, 0);
  TORCH_CHECK_TYPE(w_t.scalar_type() == u.scalar_type() || w_t.scalar_type() == at::kBFloat16, op,
                   ": w_t must have the dtype of u (", u.scalar_type(), ") or be bfloat16, got ",
                   w_t.scalar_type());
  const bool parts_are_groups = parts == 2 && groups > 1;
  const ConvGeometry g{stride,          padding,        dilation,
                       transposed,      output_padding, groups * (parts_are_groups ? 2 : 1),
                       parts_are_groups};
  if (!w.is_mkldnn()) check_like(op, "w", w, "u", u);
  check_conv_weight(op, "w", w, u, kernel, g);
  check_conv_weight(op, "w_t", w_t, u, kernel, g);
  const bool given = is_given(z);
  if (given) check_like(op, "z", *z, "u", u);
  TORCH_CHECK_VALUE(!given || (z->dim() == u.dim() && z->size(0) == u.size(0)), op,
                    ": z must have the dimensions of u ", u.sizes(), ", got ",
                    given ? z->sizes() : at::IntArrayRef());
  const at::Tensor zz = given ? *z : convolve(u, w, g);
  check_bias(op, b, "u", u, zz.size(1));
  count_targets(op, R, zz.sizes(), "the output");
  const at::Tensor s =
      dense(divide(R, zz, given ? std::nullopt : b, eps, !given), zz.dim(), layout_of(zz));
  const at::Tensor c =
      convolve_transposed(s.to(w_t.scalar_type()), w_t, u.sizes(), kernel, g).to(u.scalar_type());
  TORCH_CHECK_VALUE(c.sizes().slice(1) == u.sizes().slice(1), op, ": w^T s has shape ", c.sizes(),
                    " but u has ", u.sizes(), "; check the geometry of the convolution");
  return with_targets(multiply(u, c, parts), R, u.dim());
}

at::Tensor relprop_linear(const at::Tensor& u, const at::Tensor& R, const at::Tensor& w,
                          const std::optional<at::Tensor>& b, const std::optional<at::Tensor>& z,
                          double eps, std::int64_t parts) {
  constexpr const char* op = "relprop_linear";
  check_dtype(op, "u", u);
  check_like(op, "R", R, "u", u);
  check_like(op, "w", w, "u", u);
  TORCH_CHECK_VALUE(u.dim() == 2, op, ": u must be [N, in], got ", u.sizes(),
                    "; flatten the leading dimensions");
  TORCH_CHECK_VALUE(parts == 1 || parts == 2, op, ": parts must be 1 or 2, got ", parts);
  TORCH_CHECK_VALUE(w.dim() == 2 && w.size(1) == u.size(1), op, ": w must be [out, ", u.size(1),
                    "] for u ", u.sizes(), ", got ", w.sizes());
  check_bias(op, b, "u", u, w.size(0));
  const std::int64_t outputs[] = {u.size(0), w.size(0)};
  const bool given = is_given(z);
  if (given) check_like(op, "z", *z, "u", u);
  TORCH_CHECK_VALUE(!given || z->sizes() == at::IntArrayRef(outputs), op, ": z must be ",
                    at::IntArrayRef(outputs), ", got ", given ? z->sizes() : at::IntArrayRef());
  count_targets(op, R, outputs, "the output");
  const at::Tensor zz = given ? *z : at::linear(u, w);
  const at::Tensor s =
      dense(divide(R, zz, given ? std::nullopt : b, eps, !given), 2, at::MemoryFormat::Contiguous);
  const at::Tensor c = backward_product(s, w);
  return with_targets(multiply(u, c, parts), R, 2);
}

namespace {

template <class Library>
void register_relprop(Library& m) {
  m.impl("relprop_conv", &relprop_conv);
  m.impl("relprop_linear", &relprop_linear);
}

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { register_relprop(m); }
// A packed weight carries its own dispatch key.
TORCH_LIBRARY_IMPL(xaifast, MkldnnCPU, m) { m.impl("relprop_conv", &relprop_conv); }
#ifdef XAIFAST_WITH_CUDA
TORCH_LIBRARY_IMPL(xaifast, CUDA, m) { register_relprop(m); }
#endif

}  // namespace xaifast
