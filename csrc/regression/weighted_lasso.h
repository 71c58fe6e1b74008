// Weighted lasso for small problems, by cyclic coordinate descent on the Gram matrix:
//   min over c, c0 of  1/(2 S) sum_s w_s (y_s - x_s c - c0)^2 + alpha |c|_1,
//   w_s = weight_s S / sum(weight)
// With A and b of design.h this is  |b - A c|^2 / 2 + penalty |c|_1,  penalty = alpha sum(weight).
// With  Q = A^T A,  q = A^T b,  g = q - Q c  a step on feature j is
//   c_j <- soft(g_j + Q_jj c_j, penalty) / Q_jj,   soft(x, t) = sgn(x) max(|x| - t, 0)
// and a column of zeros (as a constant one, without its mean) keeps c_j = 0.
//
// As soon as the sweeps have cost as much, the features in use take a step together: to the exact
// minimum for their present signs, or as far as the first of them comes to zero. Sweeps alone would
// crawl where features hang together, as they do with the weights of KernelSHAP; with these steps
// they only have to find out which features are in use.
//
// It ends when no step of a sweep was longer than tol times the largest |c_j| and the duality gap,
// over |b|^2, is at most tol; or where rounding stops all progress; or after max_iter sweeps. The
// gap bounds how far the objective is from its minimum (scikit-learn's formulation):
//   |r|^2 (1 + t^2) / 2 + penalty |c|_1 - t r.b,   r = b - A c,   t = min(1, penalty / max_j |g_j|)
//
// Three kernels; Q and q are matrix products between the first two and the third:
//   prepare         of design.h, with ridge 0
//   prepare_target  y [S] -> b and what else the third needs
//   descend         Q [M, M] symmetric, q [M] -> coef [M], intercept [1], gap [1], overwritten
// No sample that counts: zeros. No feature: the intercept is the weighted mean of y. Without an
// intercept it is 0. Finite input never gives a NaN.
// dtypes: float32 and float64, computed in float64. Deterministic.
#pragma once

#include "regression/design.h"
#include "regression/team.h"

namespace xaifast {

struct LassoRule {
  double alpha;  // positive
  double tol;
  std::int64_t max_iter;
};

// Numbers of workspace of one target: b [S], then the Target.
inline constexpr std::int64_t kTarget = sizeof(Target) / sizeof(double);
XAI_HOST_DEVICE inline std::int64_t target_size(const DesignShape& p) { return p.S + kTarget; }

// Prepares the target of one problem. target [target_size].
template <class T>
void prepare_target(const double* design, const T* y, const DesignShape& p, double* target);

// Numbers of workspace of one problem: g, the features in use, their common step, and a matrix.
XAI_HOST_DEVICE inline std::int64_t descent_size(const DesignShape& p) {
  return 3 * p.M + p.M * p.M;
}

// Solves one problem. work [descent_size] is overwritten.
void descend(const double* design, const double* target, const double* Q, const double* q,
             const DesignShape& p, const LassoRule& rule, double* work, double* coef,
             double* intercept, double* gap);

}  // namespace xaifast
