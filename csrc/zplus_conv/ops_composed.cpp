#include "zplus_conv/ops_composed.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>

namespace xaifast {
namespace {

struct Terms {
  at::Tensor u, w;
  std::int64_t parts = 1;
};

at::Tensor bounds(at::ArrayRef<double> x, const at::Tensor& a) {
  std::vector<std::int64_t> shape(static_cast<std::size_t>(a.dim()), 1);
  shape[1] = a.size(1);
  return at::tensor(x, at::kDouble).to(a.options()).view(shape);
}

// As relprop_conv wants them: side by side along the inputs, or along the groups if there are more.
Terms terms_of(const at::Tensor& a, const at::Tensor& w, const ConvArguments& c) {
  const ConvRule rule = conv_rule(c.rule);
  if (rule == ConvRule::kAll) return {a, w};
  if (rule == ConvRule::kSquare) return {at::ones_like(a), w.square()};
  const at::Tensor positive = w.clamp_min(0), negative = w.clamp_max(0);
  const bool flip = rule == ConvRule::kNegative, box = rule == ConvRule::kBox;
  const at::Tensor& first = flip ? negative : positive;
  if (!box && c.nonnegative) return {a, first};
  const at::Tensor u = box ? at::cat({a.sub(bounds(c.low, a)), a.sub(bounds(c.high, a))}, 1)
                           : at::cat({a.clamp_min(0), a.clamp_max(0)}, 1);
  return {u, at::cat({first, flip ? positive : negative}, c.groups == 1 ? 1 : 0), 2};
}

}  // namespace

at::Tensor compose_zplus_conv(const at::Tensor& a, const at::Tensor& R, const at::Tensor& w,
                              const std::optional<at::Tensor>& b, const ConvArguments& c) {
  using Relprop =
      at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                 const std::optional<at::Tensor>&, const std::optional<at::Tensor>&,
                 at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, bool,
                 at::IntArrayRef, std::int64_t, double, std::int64_t);
  static const auto relprop =
      c10::Dispatcher::singleton().findSchemaOrThrow("xaifast::relprop_conv", "").typed<Relprop>();
  const Terms t = terms_of(a, w, c);
  const std::vector<std::int64_t> none(c.stride.size(), 0);
  return relprop.call(t.u, R, t.w, t.w, b, std::nullopt, w.sizes().slice(2), c.stride, c.padding,
                      c.dilation, false, none, c.groups, c.eps, t.parts);
}

}  // namespace xaifast
