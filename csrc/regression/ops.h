// The regression ops on any device: check and allocate (shapes.h), then run. A Backend is a struct
// of static functions that run the kernels on the planned tensors: over threads (ops_cpu.cpp) or on
// a stream (ops_cuda.cpp). Contracts: library.cpp.
#pragma once

#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "common/tensors.h"
#include "regression/shapes.h"
#include "regression/weighted_lasso.h"
#include "regression/weighted_least_squares.h"

namespace xaifast {

// The problems [begin, begin + count) of a regression with the designs that they need.
struct Batch {
  std::int64_t begin;
  std::int64_t count;
  std::int64_t designs;  // 1 or count
};

// Calls f(batch) for all problems, in batches whose designs of `size` numbers fit into `numbers`;
// problems that share their design stay together.
template <class F>
void for_batches(const Regression& r, std::int64_t size, std::int64_t numbers, const F& f) {
  const bool shared = r.designs == 1;
  const std::int64_t most = shared ? r.problems : std::max<std::int64_t>(1, numbers / size);
  for (std::int64_t begin = 0; begin < r.problems; begin += most) {
    const std::int64_t count = std::min(most, r.problems - begin);
    f(Batch{begin, count, shared ? 1 : count});
  }
}

template <class Backend>
struct RegressionOps {
  static std::tuple<at::Tensor, at::Tensor> weighted_least_squares(const at::Tensor& X,
                                                                   const at::Tensor& y,
                                                                   const at::Tensor& weight,
                                                                   double ridge, bool intercept) {
    const Regression r = plan_regression("weighted_least_squares", X, y, weight, ridge, intercept);
    if (r.problems > 0) Backend::least_squares(r);
    return {r.coef, r.intercept};
  }

  // The Gram matrices Q and the products q are left to the library of matrix products.
  static void lasso(const Regression& r, const LassoRule& rule, const at::Tensor& gap) {
    const DesignShape& p = r.shape;
    const auto options = r.coef.options();
    for_batches(r, design_size(p), Backend::kNumbers, [&](const Batch& b) {
      const at::Tensor designs = at::empty({b.designs, design_size(p)}, options);
      const at::Tensor targets = at::empty({b.count, target_size(p)}, options);
      Backend::prepare(r, b, designs, targets);
      const at::Tensor A =
          designs.narrow(1, columns_begin(p), p.M * p.S).view({b.designs, p.M, p.S});
      const at::Tensor Q = at::bmm(A, A.transpose(1, 2));
      const at::Tensor y = targets.narrow(1, 0, p.S);
      const at::Tensor q =
          b.designs == 1 ? at::mm(y, A.select(0, 0).t()) : at::bmm(A, y.unsqueeze(2)).squeeze(2);
      Backend::descend(r, b, rule, designs, targets, Q.contiguous(), q.contiguous(), gap);
    });
  }

  static std::tuple<at::Tensor, at::Tensor, at::Tensor> weighted_lasso(
      const at::Tensor& X, const at::Tensor& y, const at::Tensor& weight, double alpha,
      bool intercept, double tol, std::int64_t max_iter) {
    const LassoRule rule{alpha, tol, max_iter};
    const Regression r = plan_regression("weighted_lasso", X, y, weight, 0.0, intercept);
    check_lasso("weighted_lasso", rule);
    const at::Tensor gap = at::zeros({r.problems}, r.coef.options());
    if (r.problems > 0 && alpha > 0) lasso(r, rule, gap);
    if (r.problems > 0 && alpha == 0) Backend::least_squares(r);  // which has no gap
    return {r.coef, r.intercept, gap};
  }

  static void add_to(torch::Library& m) {
    m.impl("weighted_least_squares", &weighted_least_squares);
    m.impl("weighted_lasso", &weighted_lasso);
  }
};

}  // namespace xaifast
