// Checks and layout of zplus_conv, shared by the CPU and the CUDA glue. Knows PyTorch; the kernels
// do not.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <vector>

#include "common/tensors.h"
#include "relevance/shapes.h"
#include "zplus_conv/conv.h"

namespace xaifast {

// The arguments of the op, behind its tensors.
struct ConvArguments {
  at::IntArrayRef stride, padding, dilation;
  std::int64_t groups;
  std::string_view rule;
  at::ArrayRef<double> low, high;
  bool nonnegative;
  double eps;
};

inline ConvRule conv_rule(std::string_view name) {
  constexpr const char* names[] = {"all", "positive", "negative", "box", "square"};
  const auto* const found = std::find(std::begin(names), std::end(names), name);
  TORCH_CHECK_VALUE(found != std::end(names),
                    "zplus_conv: rule must be 'all', 'positive', 'negative', 'box' or 'square', "
                    "got '",
                    name, "'");
  return static_cast<ConvRule>(found - std::begin(names));
}

// Output positions along dimension d.
inline std::int64_t conv_output(const at::Tensor& a, const at::Tensor& w, const ConvArguments& c,
                                std::size_t d) {
  const auto i = static_cast<std::int64_t>(d) + 2;
  const std::int64_t span = a.size(i) + 2 * c.padding[d] - c.dilation[d] * (w.size(i) - 1) - 1;
  return span < 0 ? 0 : span / c.stride[d] + 1;
}

inline void check_conv(const at::Tensor& a, const at::Tensor& R, const at::Tensor& w,
                       const std::optional<at::Tensor>& b, const ConvArguments& c) {
  constexpr const char* op = "zplus_conv";
  check_dtype(op, "a", a);
  check_like(op, "R", R, "a", a);
  check_like(op, "w", w, "a", a);
  const auto dims = static_cast<std::size_t>(std::max<std::int64_t>(a.dim() - 2, 0));
  TORCH_CHECK_VALUE(dims >= 1 && dims <= 3, op, ": a must be [N, C, *positions], got ", a.sizes());
  TORCH_CHECK_VALUE(w.dim() == a.dim() && c.groups > 0 && w.size(1) * c.groups == a.size(1) &&
                        w.size(0) % c.groups == 0,
                    op, ": w must be [K, C / groups, *kernel] for a ", a.sizes(),
                    " and groups=", c.groups, ", got ", w.sizes());
  const auto all = [dims](at::IntArrayRef x, std::int64_t least) {
    return x.size() == dims && std::all_of(x.begin(), x.end(), [&](auto n) { return n >= least; });
  };
  TORCH_CHECK_VALUE(all(c.stride, 1) && all(c.padding, 0) && all(c.dilation, 1), op,
                    ": stride, padding and dilation must have one number for each position "
                    "dimension, at least 1, 0 and 1, got ",
                    c.stride, ", ", c.padding, " and ", c.dilation);
  std::vector<std::int64_t> z{a.size(0), w.size(0)};
  for (std::size_t d = 0; d < dims; ++d) z.push_back(conv_output(a, w, c, d));
  count_targets(op, R, z, "the output");
  if (b.has_value() && b->defined()) {
    check_like(op, "b", *b, "a", a);
    TORCH_CHECK_VALUE(b->dim() == 1 && b->size(0) == w.size(0), op,
                      ": b must have one value per output channel (", w.size(0), "), got shape ",
                      b->sizes());
  }
  const bool box = conv_rule(c.rule) == ConvRule::kBox;
  const auto bounds = static_cast<std::size_t>(box ? a.size(1) : 0);
  TORCH_CHECK_VALUE(c.low.size() == bounds && c.high.size() == bounds, op,
                    ": low and high must have one number for each channel (", a.size(1),
                    ") for rule 'box' and none for others, got ", c.low.size(), " and ",
                    c.high.size());
}

}  // namespace xaifast
