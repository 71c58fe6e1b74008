// The regression kernels on CPU tensors: pointers out of tensors, threads over problems, or over
// the columns of the one design that all problems share.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <memory>

#include "common/threads.h"
#include "regression/ops.h"

namespace xaifast {
namespace {

// A step of a crew ends with a barrier, which costs as much as touching so many numbers.
constexpr std::int64_t kCrewGrain = 1 << 18;

const Crew kCrew{{[](std::int64_t n, std::int64_t work, Threads::Range range, const void* body) {
  const std::int64_t grain = kCrewGrain / std::max<std::int64_t>(1, work) + 1;
  at::parallel_for(0, n, grain,
                   [&](std::int64_t begin, std::int64_t end) { range(body, begin, end); });
}}};

std::unique_ptr<double[]> workspace(std::int64_t numbers) {
  return std::make_unique_for_overwrite<double[]>(static_cast<std::size_t>(numbers));
}

// The pointers of one problem.
template <class T>
struct Problem {
  const T* X;
  const T* y;
  const T* weight;
  double* coef;
  double* intercept;

  Problem(const Regression& r, std::int64_t b)
      : X(in<T>(r.X) + b * step_of(r.X)),
        y(in<T>(r.y) + b * r.shape.S),
        weight(in<T>(r.weight) + b * step_of(r.weight)),
        coef(out<double>(r.coef) + b * r.shape.M),
        intercept(out<double>(r.intercept) + b) {}
};

struct Cpu {
  // Designs at a time: so many that they stay in a cache.
  static constexpr std::int64_t kNumbers = 1 << 20;

  static void least_squares(const Regression& r) {
    AT_DISPATCH_FLOATING_TYPES(r.X.scalar_type(), "weighted_least_squares", [&] {
      r.designs == 1 ? solve_shared<scalar_t>(r) : solve_each<scalar_t>(r);
    });
  }

  template <class T>
  static void solve_shared(const Regression& r) {
    const DesignShape& p = r.shape;
    const auto design = workspace(factors_size(p));
    xaifast::prepare(kCrew, in<T>(r.X), in<T>(r.weight), p, design.get());
    factorize(kCrew, p, design.get());
    at::parallel_for(0, r.problems, grain(p.rows() * p.M), [&](auto begin, auto end) {
      const auto work = workspace(solution_size(p));
      for (auto b = begin; b < end; ++b) {
        const Problem<T> q(r, b);
        solve(design.get(), q.y, p, work.get(), q.coef, q.intercept);
      }
    });
  }

  template <class T>
  static void solve_each(const Regression& r) {
    const DesignShape& p = r.shape;
    at::parallel_for(0, r.problems, grain(p.rows() * p.M * p.M / 4), [&](auto begin, auto end) {
      const auto design = workspace(factors_size(p) + solution_size(p));
      double* work = design.get() + factors_size(p);
      for (auto b = begin; b < end; ++b) {
        const Problem<T> q(r, b);
        xaifast::prepare(q.X, q.weight, p, design.get());
        factorize(p, design.get());
        solve(design.get(), q.y, p, work, q.coef, q.intercept);
      }
    });
  }

  static void prepare(const Regression& r, const Batch& batch, const at::Tensor& designs,
                      const at::Tensor& targets) {
    AT_DISPATCH_FLOATING_TYPES(r.X.scalar_type(), "weighted_lasso", [&] {
      using T = scalar_t;
      const DesignShape& p = r.shape;
      double* design = out<double>(designs);
      double* target = out<double>(targets);
      const std::int64_t step = batch.designs == 1 ? 0 : design_size(p);
      if (batch.designs == 1) {
        const Problem<T> q(r, batch.begin);
        xaifast::prepare(kCrew, q.X, q.weight, p, design);
      }
      at::parallel_for(0, batch.count, grain(p.S * p.M), [&](auto begin, auto end) {
        for (auto b = begin; b < end; ++b) {
          const Problem<T> q(r, batch.begin + b);
          if (batch.designs != 1) xaifast::prepare(q.X, q.weight, p, design + b * step);
          prepare_target(design + b * step, q.y, p, target + b * target_size(p));
        }
      });
    });
  }

  static void descend(const Regression& r, const Batch& batch, const LassoRule& rule,
                      const at::Tensor& designs, const at::Tensor& targets, const at::Tensor& Q,
                      const at::Tensor& q, const at::Tensor& gap) {
    const DesignShape& p = r.shape;
    const bool shared = batch.designs == 1;
    at::parallel_for(0, batch.count, grain(16 * p.M * p.M), [&](auto begin, auto end) {
      const auto work = workspace(descent_size(p));
      for (auto b = begin; b < end; ++b) {
        const std::int64_t design = shared ? 0 : b, i = batch.begin + b;
        xaifast::descend(
            in<double>(designs) + design * design_size(p), in<double>(targets) + b * target_size(p),
            in<double>(Q) + design * p.M * p.M, in<double>(q) + b * p.M, p, rule, work.get(),
            out<double>(r.coef) + i * p.M, out<double>(r.intercept) + i, out<double>(gap) + i);
      }
    });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { RegressionOps<Cpu>::add_to(m); }

}  // namespace xaifast
