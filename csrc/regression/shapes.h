// Checks and layout of the regression ops, shared by the CPU and the CUDA glue. The only header of
// this family that knows PyTorch.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "common/tensors.h"
#include "regression/design.h"
#include "regression/weighted_lasso.h"

namespace xaifast {

// B problems; a tensor that all of them share is there once.
struct Regression {
  at::Tensor X, y, weight;     // [B or 1, S, M], [B, S], [B or 1, S], dense
  at::Tensor coef, intercept;  // [B, M], [B], float64
  DesignShape shape;
  std::int64_t problems;
  std::int64_t designs;  // pairs of X and weight: 1 or B
};

// Numbers from one problem's part of x to the next one's: 0 if they share it.
inline std::int64_t step_of(const at::Tensor& x) { return x.size(0) == 1 ? 0 : x.stride(0); }

// x dense, and with one entry along dimension 0 where all entries are the same memory.
inline at::Tensor once_if_shared(const at::Tensor& x) {
  const bool shared = x.size(0) > 1 && x.stride(0) == 0;
  return (shared ? x.narrow(0, 0, 1) : x).contiguous();
}

inline Regression plan_regression(const char* op, const at::Tensor& X, const at::Tensor& y,
                                  const at::Tensor& weight, double ridge, bool intercept) {
  const auto t = X.scalar_type();
  TORCH_CHECK_TYPE(t == at::kFloat || t == at::kDouble, op, ": X must be float32 or float64, got ",
                   t, "; convert X, y and weight");
  check_like(op, "y", y, "X", X);
  check_like(op, "weight", weight, "X", X);
  TORCH_CHECK_VALUE(y.dim() == 2, op, ": y must be [B, S], a row for each problem, got ",
                    y.sizes());
  const std::int64_t B = y.size(0), S = y.size(1);
  TORCH_CHECK_VALUE(X.dim() == 3 && (X.size(0) == B || X.size(0) == 1) && X.size(1) == S, op,
                    ": X must be [B or 1, S, M] for y [B, S] ", y.sizes(), ", got ", X.sizes());
  TORCH_CHECK_VALUE(
      weight.dim() == 2 && (weight.size(0) == B || weight.size(0) == 1) && weight.size(1) == S, op,
      ": weight must be [B or 1, S] for y [B, S] ", y.sizes(), ", got ", weight.sizes());
  TORCH_CHECK_VALUE(ridge >= 0 && std::isfinite(ridge), op,
                    ": ridge must be a finite number that is not negative, got ", ridge);
  checked_product(op, "a design and its factors", {4, X.size(2), S + X.size(2)});
  checked_product(op, "the coefficients", {B, X.size(2)});
  Regression r;
  r.X = once_if_shared(X);
  r.y = y.contiguous();
  r.weight = once_if_shared(weight);
  r.shape = {S, X.size(2), ridge, intercept};
  r.problems = B;
  r.designs = r.X.size(0) == 1 && r.weight.size(0) == 1 ? 1 : B;
  const auto options = X.options().dtype(at::kDouble);
  r.coef = at::empty({B, r.shape.M}, options);
  r.intercept = at::empty({B}, options);
  return r;
}

inline void check_lasso(const char* op, const LassoRule& rule) {
  TORCH_CHECK_VALUE(rule.alpha >= 0 && std::isfinite(rule.alpha), op,
                    ": alpha must be a finite number that is not negative, got ", rule.alpha);
  TORCH_CHECK_VALUE(rule.tol >= 0, op, ": tol must not be negative, got ", rule.tol);
  TORCH_CHECK_VALUE(rule.max_iter >= 1, op, ": max_iter must be at least 1, got ", rule.max_iter);
}

}  // namespace xaifast
