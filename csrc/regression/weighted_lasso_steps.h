// The steps of weighted_lasso.h, for any team (team.h).
#pragma once

#include "regression/design_steps.h"
#include "regression/weighted_lasso.h"

namespace xaifast {

// What one problem works on, in the scaled numbers of its design.
struct Descent {
  const double* Q;     // [M, M]
  const double* q;     // [M]
  double* c;           // [M]
  double* g;           // [M]
  std::int64_t* used;  // [M]: the features with c_j != 0
  double* d;           // [M]: a step of those
  double* L;           // [M, M]: a triangle, L L^T = Q of those
  std::int64_t M;
  double penalty;
  double bb;  // |b|^2
};

// g = q - Q c. A step keeps it up to date but for rounding.
template <class Team>
XAI_DEVICE void refresh_gradient(const Team& team, const Descent& p) {
  team.each(p.M, [&](std::int64_t j) { p.g[j] = p.q[j]; });
  for (std::int64_t j = 0; j < p.M; ++j) {
    if (p.c[j] != 0) team.add_multiple(-p.c[j], p.Q + j * p.M, p.g, p.M);
  }
}

// The duality gap over |b|^2.
template <class Team>
XAI_DEVICE double relative_gap(const Team& team, const Descent& p) {
  if (p.bb == 0) return 0;
  const double cq = team.dot(p.c, p.q, p.M);
  const double cg = team.dot(p.c, p.g, p.M);
  const double l1 = team.sum(p.M, [&](std::int64_t j) { return std::fabs(p.c[j]); });
  const double steepest = team.largest(p.g, p.M);
  const double rr = p.bb - cq - cg;  // b.b - 2 c.q + c Q c
  const double rb = p.bb - cq;
  const double t = steepest > p.penalty ? p.penalty / steepest : 1.0;
  const double gap = rr * (1 + t * t) / 2 + p.penalty * l1 - t * rb;
  return (gap < 0 ? 0 : gap) / p.bb;
}

// The square of a column that counts as zero. The largest number of X became 1 or 2 (design.h), so
// that nothing overflows above this.
inline constexpr double kNothing = 0x1p-600;

// The longest step of a sweep, and the largest coefficient after it.
struct Sweep {
  double step;
  double largest;
};

template <class Team>
XAI_DEVICE Sweep sweep(const Team& team, const Descent& p) {
  Sweep s{0, 0};
  for (std::int64_t j = 0; j < p.M; ++j) {
    const double Qjj = p.Q[j * p.M + j], before = p.c[j];
    if (Qjj < kNothing) continue;
    const double x = p.g[j] + Qjj * before;
    const double size = std::fabs(x) - p.penalty;
    const double after = size > 0 ? std::copysign(size, x) / Qjj : 0.0;
    if (after != before) {
      team.add_multiple(before - after, p.Q + j * p.M, p.g, p.M);
      team.set(p.c + j, after);
    }
    const double step = std::fabs(after - before), length = std::fabs(after);
    s.step = step > s.step ? step : s.step;
    s.largest = length > s.largest ? length : s.largest;
  }
  return s;
}

// ---- the step that all features in use take together -----------------------------------------

// What is no larger than this, relative to what it comes from, is rounding error.
inline constexpr double kRounding = 0x1p-44;
// A feature depends on others if they leave no more of it.
inline constexpr double kDependent = 0x1p-40;
// A coefficient is far out if it is so many times larger than what would explain all of b.
inline constexpr double kFar = 0x1p10;

template <class Team>
XAI_DEVICE std::int64_t count_used(const Team& team, const Descent& p) {
  return static_cast<std::int64_t>(
      team.sum(p.M, [&](std::int64_t j) { return p.c[j] != 0 ? 1.0 : 0.0; }));
}

template <class Team>
XAI_DEVICE std::int64_t find_used(const Team& team, const Descent& p) {
  team.alone([&] {
    std::int64_t n = 0;
    for (std::int64_t j = 0; j < p.M; ++j) {
      if (p.c[j] != 0) p.used[n++] = j;
    }
  });
  return count_used(team, p);
}

// Row i of L, and what it leaves of Q_ii: nothing if the feature depends on those before it.
template <class Team>
XAI_DEVICE double cholesky_row(const Team& team, const Descent& p, std::int64_t i) {
  double* row = p.L + i * p.M;
  const double* Qi = p.Q + p.used[i] * p.M;
  for (std::int64_t k = 0; k < i; ++k) {
    const double* Lk = p.L + k * p.M;
    team.set(row + k, (Qi[p.used[k]] - team.dot(row, Lk, k)) / Lk[k]);
  }
  const double left = Qi[p.used[i]] - team.dot(row, row, i);
  team.set(row + i, left > 0 ? std::sqrt(left) : 0.0);
  return left > kDependent * Qi[p.used[i]] ? left : 0.0;
}

// d = L^-T d for the first n features.
template <class Team>
XAI_DEVICE void substitute_back(const Team& team, const Descent& p, std::int64_t n) {
  for (std::int64_t i = n - 1; i >= 0; --i) {
    const double* row = p.L + i * p.M;
    const double di = p.d[i] / row[i];
    team.set(p.d + i, di);
    team.add_multiple(-di, row, p.d, i);
  }
}

// Minus the slope of the objective in the i-th feature in use.
XAI_DEVICE inline double descent_of(const Descent& p, std::int64_t i) {
  const std::int64_t j = p.used[i];
  return p.g[j] - std::copysign(p.penalty, p.c[j]);
}

// A step d of the first `features` in use, and how much of it leads to the minimum.
struct Direction {
  std::int64_t features;
  double limit;
};

// Newton's: Q d = g - penalty sgn c.
template <class Team>
XAI_DEVICE Direction newton_direction(const Team& team, const Descent& p, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const double* row = p.L + i * p.M;
    team.set(p.d + i, (descent_of(p, i) - team.dot(row, p.d, i)) / row[i]);
  }
  substitute_back(team, p, n);
  return {n, 1};
}

// Along which the fit stays as it is, because feature i depends on those before it: towards smaller
// |c|_1, or where that is level too, so that feature i comes to zero. But not so far that the
// rounding errors of the dependence count.
template <class Team>
XAI_DEVICE Direction dependent_direction(const Team& team, const Descent& p, std::int64_t i) {
  const double* row = p.L + i * p.M;
  team.each(i, [&](std::int64_t k) { p.d[k] = -row[k]; });
  substitute_back(team, p, i);
  team.set(p.d + i, 1.0);
  const auto growth = [&](std::int64_t k) {
    return std::copysign(p.d[k], p.d[k] * p.c[p.used[k]]);
  };
  const double slope = team.sum(i + 1, growth);
  const double length = team.sum(i + 1, [&](std::int64_t k) { return std::fabs(p.d[k]); });
  const bool level = std::fabs(slope) <= kRounding * length;
  const double sign = std::copysign(1.0, level ? -p.c[p.used[i]] : -slope);
  team.each(i + 1, [&](std::int64_t k) { p.d[k] *= sign; });
  const double curvature = row[i] * row[i];
  const double far = kFar * std::sqrt(p.bb / p.Q[p.used[i] * p.M + p.used[i]]);
  return {i + 1, level ? far : std::fmin(far, p.penalty * std::fabs(slope) / curvature)};
}

template <class Team>
XAI_DEVICE Direction common_direction(const Team& team, const Descent& p) {
  const std::int64_t n = find_used(team, p);
  for (std::int64_t i = 0; i < n; ++i) {
    if (cholesky_row(team, p, i) == 0) return dependent_direction(team, p, i);
  }
  return newton_direction(team, p, n);
}

// The part of the step after which the i-th coefficient is zero.
XAI_DEVICE inline double part_to_zero(const Descent& p, std::int64_t i) {
  const double part = -p.c[p.used[i]] / p.d[i];
  return part > 0 ? part : HUGE_VAL;
}

// Goes on as long as each step ends where a coefficient becomes zero.
template <class Team>
XAI_DEVICE void step_together(const Team& team, const Descent& p) {
  for (bool whole = false; !whole;) {
    const Direction d = common_direction(team, p);
    const double part =
        -team.max(d.features, -d.limit, [&](std::int64_t i) { return -part_to_zero(p, i); });
    whole = !(part < d.limit);
    if (!(part < HUGE_VAL)) return;
    team.each(d.features, [&](std::int64_t i) {
      const bool zero = !whole && part_to_zero(p, i) == part;
      double& c = p.c[p.used[i]];
      c = zero ? 0 : c + part * p.d[i];
    });
    refresh_gradient(team, p);
  }
}

// ---- descent ----------------------------------------------------------------------------------

// How many sweeps cost as much as a common step, about.
template <class Team>
XAI_DEVICE std::int64_t sweeps_of_a_step(const Team& team, const Descent& p) {
  const std::int64_t n = count_used(team, p);
  return n * n / (6 * p.M);
}

// Returns the gap at the end.
template <class Team>
XAI_DEVICE double minimize(const Team& team, const Descent& p, const LassoRule& rule) {
  team.each(p.M, [&](std::int64_t j) { p.c[j] = 0; });
  refresh_gradient(team, p);
  double gap = relative_gap(team, p);
  double before = HUGE_VAL;
  std::int64_t since = 0;  // sweeps since the last common step
  for (std::int64_t i = 1; i <= rule.max_iter; ++i) {
    const Sweep s = sweep(team, p);
    const bool still = s.step <= rule.tol * s.largest || s.largest == 0;
    if (still || i == rule.max_iter) {
      refresh_gradient(team, p);
      gap = relative_gap(team, p);
      const bool stuck = s.step <= kRounding * s.largest && gap >= before;
      if (gap <= rule.tol || s.step == 0 || stuck) return gap;
      before = gap;
    }
    if (++since < sweeps_of_a_step(team, p)) continue;
    step_together(team, p);
    since = 0;
  }
  return gap;
}

// ---- one problem ------------------------------------------------------------------------------

template <class T, class Team>
XAI_DEVICE void prepare_target_with(const Team& team, const double* design, const T* y,
                                    const DesignShape& p, double* target) {
  const Design d = design_at(const_cast<double*>(design), p);
  const Target facts = prepare_target(team, y, d, target);
  team.set(reinterpret_cast<Target*>(target + p.S), facts);
}

template <class Team>
XAI_DEVICE void descend_with(const Team& team, const double* design, const double* target,
                             const double* Q, const double* q, const DesignShape& p,
                             const LassoRule& rule, double* work, double* coef, double* intercept,
                             double* gap) {
  const Design d = design_at(const_cast<double*>(design), p);
  const Target facts = *reinterpret_cast<const Target*>(target + p.S);
  // No gradient is near 1e300, and infinity times 0 would be no number.
  const double penalty =
      std::fmin(scaled(rule.alpha * d.facts->total, -d.facts->x_scale - facts.y_scale), 1e300);
  Descent descent;
  descent.Q = Q;
  descent.q = q;
  descent.c = coef;
  descent.g = work;
  descent.d = work + p.M;
  descent.used = reinterpret_cast<std::int64_t*>(work + 2 * p.M);
  descent.L = work + 3 * p.M;
  descent.M = p.M;
  descent.penalty = penalty;
  descent.bb = team.dot(target, target, p.S);
  team.set(gap, minimize(team, descent, rule));
  const double offset = team.dot(coef, d.mean, p.M);
  team.each(p.M,
            [&](std::int64_t j) { coef[j] = scaled(coef[j], facts.y_scale - d.facts->x_scale); });
  team.set(intercept, p.intercept ? scaled(facts.mean - offset, facts.y_scale) : 0.0);
}

}  // namespace xaifast
