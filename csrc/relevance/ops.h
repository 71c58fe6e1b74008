// The relevance ops on any device: check and allocate (shapes.h), then run. A Backend is a struct
// of static functions, one per kernel, that run it on the planned tensors: over threads
// (ops_cpu.cpp) or on a stream (ops_cuda.cpp). Contracts: library.cpp.
#pragma once

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>

#include "relevance/shapes.h"

namespace xaifast {

template <class Backend>
struct RelevanceOps {
  static at::Tensor stabilized_divide(const at::Tensor& R, const at::Tensor& z,
                                      const std::optional<at::Tensor>& b, double eps) {
    const Divide d = plan_divide("stabilized_divide", R, z, b);
    const at::Tensor s = at::empty(d.R.sizes(), d.R.options().memory_format(layout_of(z)));
    Backend::divide(d, s, eps);
    return with_targets(s, R, z.dim());
  }

  static at::Tensor& stabilized_divide_(at::Tensor& z, const at::Tensor& R,
                                        const std::optional<at::Tensor>& b, double eps) {
    constexpr const char* op = "stabilized_divide_";
    const Divide d = plan_divide(op, R, z, b);
    TORCH_CHECK_VALUE(d.shape.targets == 1 && R.dim() == z.dim(), op,
                      ": R must have the shape of z ", z.sizes(), ", got ", R.sizes());
    check_writable(op, "z", z);
    check_apart(op, "z", z, "R", R);
    if (is_given(b)) check_apart(op, "z", z, "b", *b);
    Backend::divide(d, d.z, eps);
    if (!d.z.is_same(z)) z.copy_(d.z);
    mark_written(z);
    return z;
  }

  static at::Tensor multiply_parts(const at::Tensor& u, const at::Tensor& c, std::int64_t parts) {
    const Product p = plan_product("multiply_parts", u, c, parts, /*in_place=*/false);
    Backend::multiply(p);
    return p.R;
  }

  static at::Tensor& multiply_(at::Tensor& c, const at::Tensor& u) {
    constexpr const char* op = "multiply_";
    const Product p = plan_product(op, u, c, 1, /*in_place=*/true);
    check_writable(op, "c", c);
    check_apart(op, "c", c, "u", u);
    Backend::multiply(p);
    if (!p.R.is_same(c)) c.copy_(p.R);
    mark_written(c);
    return c;
  }

  static at::Tensor split_signs(const at::Tensor& a) {
    const Split s = plan_split(a);
    Backend::split(s);
    return s.u;
  }

  static std::tuple<at::Tensor, at::Tensor> add_split(const at::Tensor& x, const at::Tensor& y,
                                                      const at::Tensor& R, double beta,
                                                      double eps) {
    const Sum s = plan_sum(x, y, R, beta, eps);
    Backend::add_split(s);
    return {with_targets(s.Rx, R, x.dim()), with_targets(s.Ry, R, x.dim())};
  }

  static at::Tensor pool_redistribute(const at::Tensor& a, const at::Tensor& R,
                                      at::IntArrayRef kernel, at::IntArrayRef stride,
                                      at::IntArrayRef padding, at::IntArrayRef dilation,
                                      std::string_view rule, double eps) {
    const Pool p = plan_pool(a, R, kernel, stride, padding, dilation, rule);
    Backend::pool(p, eps);
    return with_targets(p.r, R, a.dim());
  }

  static at::Tensor backward_product(const at::Tensor& s, const at::Tensor& w) {
    check_backward_product(s, w);
    return Backend::backward_product(s, w);
  }

  static void add_to(torch::Library& m) {
    m.impl("stabilized_divide", &stabilized_divide);
    m.impl("stabilized_divide_", &stabilized_divide_);
    m.impl("multiply_parts", &multiply_parts);
    m.impl("multiply_", &multiply_);
    m.impl("split_signs", &split_signs);
    m.impl("add_split", &add_split);
    m.impl("pool_redistribute", &pool_redistribute);
    m.impl("backward_product", &backward_product);
  }
};

}  // namespace xaifast
