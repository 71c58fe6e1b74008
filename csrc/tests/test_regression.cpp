// Native tests of the regression kernels; how they are made: checks.h. Every kernel is run by one
// CPU thread, by a crew, and by played blocks of CUDA (played_team.h), against the pseudo-inverse
// from the eigenvalues of the normal equations in long double, or against the conditions that a
// lasso is at its minimum.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "regression/kernels_cuda.h"
#include "regression/vectors.h"
#include "regression/weighted_lasso.h"
#include "regression/weighted_lasso_steps.h"
#include "regression/weighted_least_squares.h"
#include "regression/weighted_least_squares_steps.h"
#include "tests/checks.h"
#include "tests/played_team.h"

namespace xaifast {
namespace {

using Real = long double;
using Reals = std::vector<Real>;

std::size_t size(int64_t n) { return static_cast<std::size_t>(n); }

// ---- vectors ----------------------------------------------------------------------------------

void test_reductions(int64_t n) {
  const auto x = numbers<double>(n, 1), y = numbers<double>(n, 2);
  const auto narrow = numbers<float>(n, 1);
  double sum = 0, most = 0;
  Doubles added;
  for (int64_t i = 0; i < n; ++i) {
    sum += x[i] * y[i];
    most = std::max(most, std::abs(x[i]));
    added.push_back(y[i] + 0.5 * x[i]);
  }
  const auto what = label<double>("vectors", {n});
  expect(what + " dot", Doubles{dot(x.data(), y.data(), n)}, {sum}, 0);
  expect(what + " largest", Doubles{largest(x.data(), n)}, {most}, 0);
  expect(what + " largest float", Doubles{largest(narrow.data(), n)}, {most}, 0);
  auto z = y;
  add_multiple(0.5, x.data(), z.data(), n);
  expect(what + " add_multiple", z, added, 0);
}

void test_dots(int64_t n, int64_t count) {
  const auto x = numbers<double>(n, 1), a = numbers<double>(n * count, 2);
  std::array<const double*, kColumns> columns{};
  Doubles want(size(count), 0.0), got = poison<double>(count);
  for (int64_t k = 0; k < count; ++k) {
    columns[size(k)] = a.data() + k * n;
    for (int64_t i = 0; i < n; ++i) want[k] += x[i] * a[k * n + i];
  }
  dots(x.data(), columns.data(), count, got.data(), n);
  expect(label<double>("dots", {n, count}), got, want, 0);
}

void test_subtract(int64_t n, int64_t count, int64_t vectors) {
  auto a = numbers<double>(n * count, 1);
  const auto v = numbers<double>(n * vectors, 2), f = numbers<double>(count * vectors, 3);
  Doubles want = a;
  std::array<double*, kColumns> columns{};
  for (int64_t k = 0; k < count; ++k) {
    columns[size(k)] = a.data() + k * n;
    for (int64_t b = 0; b < vectors; ++b) {
      for (int64_t i = 0; i < n; ++i) want[k * n + i] -= f[k * vectors + b] * v[b * n + i];
    }
  }
  Solo{}.subtract(
      columns.data(), count, n, vectors, [&](int64_t b) { return v.data() + b * n; },
      [&](int64_t k, int64_t b) { return f[k * vectors + b]; });
  expect(label<double>("subtract", {n, count, vectors}), a, want, 0);
}

void test_vectors() {
  for (const int64_t n : {0, 1, 3, 4, 7, 8, 15, 16, 17, 40}) {
    test_reductions(n);
    for (int64_t count = 0; count <= kColumns; ++count) {
      test_dots(n, count);
      for (int64_t vectors = 0; vectors <= 2 * kTile + 1; ++vectors) {
        test_subtract(n, count, vectors);
      }
    }
  }
}

// ---- problems ---------------------------------------------------------------------------------

template <class T>
struct Problem {
  DesignShape p;
  std::vector<T> X, y, weight;
  std::string what;
};

// Small multiples of 1/4, and as many kinds of trouble as `kind` asks for.
template <class T>
Problem<T> problem(int64_t S, int64_t M, int kind, double ridge, bool intercept) {
  Problem<T> q{{S, M, ridge, intercept},
               numbers<T>(S * M, 1),
               numbers<T>(S, 2),
               numbers<T>(S, 3),
               label<T>("regression", {S, M, kind, intercept}) + " " + std::to_string(ridge)};
  for (auto& w : q.weight) w = std::abs(w) + static_cast<T>(0.25f);
  for (int64_t s = 0; s < S; ++s) {
    if (kind == 1 && M > 1) q.X[s * M + M - 1] = q.X[s * M];                   // a copy
    if (kind == 2 && M > 2) q.X[s * M + 1] = q.X[s * M] + q.X[s * M + M - 1];  // a sum
    if (kind == 3 && M > 0) q.X[s * M] = static_cast<T>(0.1f);                 // a constant
    if (kind == 4 && s % 3 == 1) q.weight[s] = static_cast<T>(s % 2 == 0 ? 0.0f : -0.0f);
    if (kind == 5 && s < 2) {  // KernelSHAP's first samples
      q.weight[s] = static_cast<T>(1e6f);
      for (int64_t k = 0; k < M; ++k) q.X[s * M + k] = static_cast<T>(static_cast<float>(s));
    }
    if (kind == 6) q.weight[s] = 0;
  }
  if (kind == 4 && S > 1) {  // what must not be looked at
    q.y[1] = std::numeric_limits<T>::max();
    if (M > 0) q.X[M] = std::numeric_limits<T>::max();
  }
  return q;
}

constexpr int kKinds = 7;
constexpr std::array<int64_t, 2> kSizes[] = {{0, 0}, {0, 3}, {3, 0}, {1, 1},  {1, 4},  {2, 1},
                                             {2, 3}, {5, 5}, {3, 9}, {10, 9}, {17, 6}, {40, 11}};

// A and b of design.h, with the ridge's rows, a row after the other.
struct System {
  int64_t rows, M;
  Reals A, b, means;
  Real mean;
};

template <class T>
System naive_system(const Problem<T>& q) {
  const auto& p = q.p;
  System n{p.rows(), p.M, Reals(size(p.rows() * p.M)), Reals(size(p.rows())), Reals(size(p.M)), 0};
  Real total = 0;
  for (int64_t s = 0; s < p.S; ++s) {
    if (q.weight[s] == 0) continue;
    total += q.weight[s];
    n.mean += static_cast<Real>(q.weight[s]) * q.y[s];
    for (int64_t k = 0; k < p.M; ++k) {
      n.means[k] += static_cast<Real>(q.weight[s]) * q.X[s * p.M + k];
    }
  }
  const Real scale = total > 0 && p.intercept ? 1 / total : 0;
  n.mean *= scale;
  for (auto& m : n.means) m *= scale;
  for (int64_t s = 0; s < p.S; ++s) {
    if (q.weight[s] == 0) continue;
    const Real root = std::sqrt(static_cast<Real>(q.weight[s]));
    n.b[s] = root * (q.y[s] - n.mean);
    for (int64_t k = 0; k < p.M; ++k) {
      n.A[s * p.M + k] = root * (q.X[s * p.M + k] - n.means[k]);
    }
  }
  for (int64_t k = 0; p.ridge > 0 && k < p.M; ++k) {
    n.A[(p.S + k) * p.M + k] = std::sqrt(static_cast<Real>(p.ridge));
  }
  return n;
}

// Jacobi's rotations: Q becomes diagonal, its eigenvectors are the columns of V.
void diagonalize(Reals& Q, Reals& V, int64_t M) {
  for (int64_t i = 0; i < M; ++i) V[i * M + i] = 1;
  for (int round = 0; round < 60; ++round) {
    for (int64_t i = 0; i < M; ++i) {
      for (int64_t j = i + 1; j < M; ++j) {
        if (Q[i * M + j] == 0) continue;
        const Real angle = std::atan2(2 * Q[i * M + j], Q[i * M + i] - Q[j * M + j]) / 2;
        const Real c = std::cos(angle), s = std::sin(angle);
        const auto rotate = [&](Real& x, Real& y) {
          const Real was = x;
          x = c * was + s * y;
          y = c * y - s * was;
        };
        for (int64_t k = 0; k < M; ++k) rotate(Q[i * M + k], Q[j * M + k]);
        for (int64_t k = 0; k < M; ++k) rotate(Q[k * M + i], Q[k * M + j]);
        for (int64_t k = 0; k < M; ++k) rotate(V[k * M + i], V[k * M + j]);
      }
    }
  }
}

// The coefficients of least norm, then the intercept.
template <class T>
Doubles naive_least_squares(const Problem<T>& q) {
  const System n = naive_system(q);
  const int64_t M = n.M;
  Reals Q(size(M * M)), V(size(M * M)), c(size(M));
  for (int64_t s = 0; s < n.rows; ++s) {
    for (int64_t i = 0; i < M; ++i) {
      for (int64_t j = 0; j < M; ++j) Q[i * M + j] += n.A[s * M + i] * n.A[s * M + j];
    }
  }
  diagonalize(Q, V, M);
  Real most = 0;
  for (int64_t i = 0; i < M; ++i) most = std::max(most, Q[i * M + i]);
  // What is left is solved for again: rounding in Q and V counts by the square of A's condition.
  for (int round = 0; round < 3; ++round) {
    Reals h(size(M));
    for (int64_t s = 0; s < n.rows; ++s) {
      Real rest = n.b[s];
      for (int64_t k = 0; k < M; ++k) rest -= n.A[s * M + k] * c[k];
      for (int64_t k = 0; k < M; ++k) h[k] += n.A[s * M + k] * rest;
    }
    for (int64_t i = 0; i < M; ++i) {
      if (Q[i * M + i] <= 1e-13L * most) continue;
      Real product = 0;
      for (int64_t k = 0; k < M; ++k) product += V[k * M + i] * h[k];
      for (int64_t k = 0; k < M; ++k) c[k] += V[k * M + i] * product / Q[i * M + i];
    }
  }
  Doubles want;
  Real offset = 0;
  for (int64_t k = 0; k < M; ++k) {
    offset += c[k] * n.means[k];
    want.push_back(static_cast<double>(c[k]));
  }
  want.push_back(static_cast<double>(q.p.intercept ? n.mean - offset : 0));
  return want;
}

// ---- least squares ----------------------------------------------------------------------------

template <class T, class Team>
void take_least_squares(const Team& team, const Problem<T>& q, double* design, double* work,
                        double* result) {
  prepare_with(team, q.X.data(), q.weight.data(), design_at(design, q.p));
  factorize_with(team, factors_at(design, q.p));
  team.once([&] { solve_with(team, design, q.y.data(), q.p, work, result, result + q.p.M); });
}

// Halves of a range, the later one first: a crew must not depend on the order.
const Crew kCrew{{[](int64_t n, int64_t, Threads::Range range, const void* body) {
  range(body, n / 2, n);
  range(body, 0, n / 2);
}}};

struct Workers {
  int workers;
  int lanes;
};
constexpr Workers kTeams[] = {{1, 2}, {3, 1}, {2, 3}};

// Played lanes take their time: one number type, no large sizes.
template <class T>
bool is_played(const DesignShape& p) {
  return std::is_same_v<T, double> && p.S * p.M <= 90;
}

// The coefficients and the intercept, from factorize_it(design).
template <class T, class F>
Doubles solve_after(const Problem<T>& q, const F& factorize_it) {
  auto design = poison<double>(factors_size(q.p)), work = poison<double>(solution_size(q.p));
  auto result = poison<double>(q.p.M + 1);
  factorize_it(design.data());
  solve(design.data(), q.y.data(), q.p, work.data(), result.data(), result.data() + q.p.M);
  return result;
}

template <class T>
Doubles solve_alone(const Problem<T>& q) {
  return solve_after(q, [&](double* design) {
    prepare(q.X.data(), q.weight.data(), q.p, design);
    factorize(q.p, design);
  });
}

template <class T>
Doubles solve_as_crew(const Problem<T>& q) {
  return solve_after(q, [&](double* design) {
    prepare(kCrew, q.X.data(), q.weight.data(), q.p, design);
    factorize(kCrew, q.p, design);
  });
}

template <class T>
Doubles solve_as_block(const Problem<T>& q, Workers w) {
  auto design = poison<double>(factors_size(q.p)), work = poison<double>(solution_size(q.p));
  auto result = poison<double>(q.p.M + 1);
  play_team(w.workers, w.lanes, [&](const PlayedTeam& team) {
    take_least_squares(team, q, design.data(), work.data(), result.data());
  });
  return result;
}

// Two problems on the emulated device, the second with half of y, whose results are halves: with a
// design each, or with one for both.
template <class T>
struct TwoProblems {
  bool shared;
  std::vector<T> X, weight, y;
  int64_t designs;

  TwoProblems(const Problem<T>& q, bool shared)
      : shared(shared), X(q.X), weight(q.weight), y(q.y), designs(shared ? 1 : 2) {
    if (!shared) {
      X.insert(X.end(), q.X.begin(), q.X.end());
      weight.insert(weight.end(), q.weight.begin(), q.weight.end());
    }
    for (const T v : q.y) y.push_back(v / 2);
  }
  DesignInputs<T> inputs(const DesignShape& p) const {
    return {X.data(), weight.data(), shared ? 0 : p.S * p.M, shared ? 0 : p.S};
  }
};

template <class T>
void expect_two(const std::string& what, const DesignShape& p, const Doubles& coef,
                const Doubles& intercept, const Doubles& want, double allowed) {
  for (int64_t i = 0; i < 2; ++i) {
    Doubles got(coef.begin() + i * p.M, coef.begin() + (i + 1) * p.M);
    got.push_back(intercept[size(i)]);
    for (auto& c : got) c *= static_cast<double>(i + 1);
    expect(what, got, want, allowed);
  }
}

template <class T>
void solve_on_device(const Problem<T>& q, bool shared, const Doubles& want, double allowed) {
  if constexpr (kEmulated) {
    const auto& p = q.p;
    const TwoProblems<T> two(q, shared);
    const int64_t each = factors_size(p);
    auto designs = poison<double>(two.designs * each), work = poison<double>(2 * solution_size(p));
    auto coef = poison<double>(2 * p.M), intercept = poison<double>(2);
    const auto what = q.what + (shared ? " shared" : "") + " on the device";
    on_device(what,
              {reads(two.X), reads(two.weight), reads(two.y), writes(designs), writes(work),
               writes(coef), writes(intercept)},
              [&] {
                auto error =
                    prepare_cuda<T>(two.inputs(p), p, designs.data(), each, two.designs, nullptr);
                if (error == cudaSuccess) {
                  error = factorize_cuda(p, designs.data(), two.designs, nullptr);
                }
                if (error != cudaSuccess) return error;
                return solve_cuda<T>(designs.data(), shared ? 0 : each, two.y.data(), p,
                                     work.data(), coef.data(), intercept.data(), 2, nullptr);
              });
    expect_two<T>(what, p, coef, intercept, want, allowed);
  }
}

template <class T>
void test_least_squares(const Problem<T>& q) {
  const Doubles want = naive_least_squares(q);
  constexpr double kAllowed = 1e-12;
  solve_on_device(q, false, want, kAllowed);
  solve_on_device(q, true, want, kAllowed);
  expect(q.what + " alone", solve_alone(q), want, kAllowed);
  expect(q.what + " crew", solve_as_crew(q), solve_alone(q), 0);
  if (!is_played<T>(q.p)) return;
  for (const Workers w : kTeams) {
    const auto team = " team " + std::to_string(w.workers) + " " + std::to_string(w.lanes);
    const Doubles got = solve_as_block(q, w);
    expect(q.what + team, got, want, kAllowed);
    expect(q.what + team + " again", solve_as_block(q, w), got, 0);
  }
}

// ---- lasso ------------------------------------------------------------------------------------

struct Lasso {
  Doubles result;  // coefficients and intercept
  double gap;
};

Doubles gram(const double* A, const double* b, int64_t S, int64_t M) {
  Doubles Qq(size(M * M + M), 0.0);
  for (int64_t i = 0; i < M; ++i) {
    for (int64_t j = 0; j < M; ++j) {
      for (int64_t s = 0; s < S; ++s) Qq[i * M + j] += A[i * S + s] * A[j * S + s];
    }
    for (int64_t s = 0; s < S; ++s) Qq[M * M + i] += A[i * S + s] * b[s];
  }
  return Qq;
}

template <class T>
Lasso lasso_alone(const Problem<T>& q, const LassoRule& rule) {
  const auto& p = q.p;
  auto design = poison<double>(design_size(p)), target = poison<double>(target_size(p));
  auto work = poison<double>(descent_size(p)), result = poison<double>(p.M + 2);
  prepare(q.X.data(), q.weight.data(), p, design.data());
  prepare_target(design.data(), q.y.data(), p, target.data());
  const auto Q = gram(design.data() + columns_begin(p), target.data(), p.S, p.M);
  descend(design.data(), target.data(), Q.data(), Q.data() + p.M * p.M, p, rule, work.data(),
          result.data(), result.data() + p.M, result.data() + p.M + 1);
  const double gap = result.back();
  result.pop_back();
  return {result, gap};
}

template <class T>
Lasso lasso_as_block(const Problem<T>& q, const LassoRule& rule, Workers w) {
  const auto& p = q.p;
  auto design = poison<double>(design_size(p)), target = poison<double>(target_size(p));
  auto work = poison<double>(descent_size(p)), result = poison<double>(p.M + 2);
  play_team(w.workers, w.lanes, [&](const PlayedTeam& team) {
    prepare_with(team, q.X.data(), q.weight.data(), design_at(design.data(), p));
    team.once([&] { prepare_target_with(team, design.data(), q.y.data(), p, target.data()); });
  });
  const auto Q = gram(design.data() + columns_begin(p), target.data(), p.S, p.M);
  play_team(1, w.lanes, [&](const PlayedTeam& team) {
    descend_with(team, design.data(), target.data(), Q.data(), Q.data() + p.M * p.M, p, rule,
                 work.data(), result.data(), result.data() + p.M, result.data() + p.M + 1);
  });
  const double gap = result.back();
  result.pop_back();
  return {result, gap};
}

// With r = b - A c:  A_j r = penalty sgn c_j where c_j is not 0, |A_j r| <= penalty where it is.
template <class T>
void expect_minimum(const std::string& what, const Problem<T>& q, const LassoRule& rule,
                    const Lasso& got) {
  const System n = naive_system(q);
  const int64_t M = n.M;
  Real total = 0, offset = 0;
  for (const auto w : q.weight) total += w;
  const Real penalty = static_cast<Real>(rule.alpha) * total;
  for (int64_t j = 0; j < M; ++j) {
    const Real c = got.result[j];
    offset += c * n.means[j];
    Real slope = 0, scale = penalty;
    for (int64_t s = 0; s < n.rows; ++s) {
      Real r = n.b[s];
      for (int64_t k = 0; k < M; ++k) r -= n.A[s * M + k] * got.result[k];
      slope += n.A[s * M + j] * r;
      scale += std::abs(n.A[s * M + j] * n.b[s]);
    }
    const bool good = c == 0 ? std::abs(slope) <= penalty + 1e-10L * scale
                             : std::abs(slope - std::copysign(penalty, c)) <= 1e-10L * scale;
    check(good, what + ": slope of feature " + std::to_string(j));
  }
  const double c0 = static_cast<double>(q.p.intercept ? n.mean - offset : 0);
  check(near(got.result[size(M)], c0, 1e-12), what + ": intercept");
  check(got.gap >= 0 && got.gap <= rule.tol, what + ": gap " + std::to_string(got.gap));
}

// The same two problems, with half of the penalty for the half of y: LassoRule::alpha is one for
// all, so each is checked on its own.
template <class T>
void lasso_on_device(const std::string& what, const Problem<T>& q, const LassoRule& rule,
                     bool shared) {
  if constexpr (kEmulated) {
    const auto& p = q.p;
    const TwoProblems<T> two(q, shared);
    const int64_t each = design_size(p), target = target_size(p), step = shared ? 0 : each;
    auto designs = poison<double>(two.designs * each), targets = poison<double>(2 * target);
    on_device(what,
              {reads(two.X), reads(two.weight), reads(two.y), writes(designs), writes(targets)},
              [&] {
                const auto error =
                    prepare_cuda<T>(two.inputs(p), p, designs.data(), each, two.designs, nullptr);
                if (error != cudaSuccess) return error;
                return prepare_target_cuda<T>(designs.data(), step, two.y.data(), p, targets.data(),
                                              2, nullptr);
              });
    const int64_t M = p.M;
    Doubles Q, b;
    for (int64_t i = 0; i < 2; ++i) {
      const auto Qq =
          gram(designs.data() + i * step + columns_begin(p), targets.data() + i * target, p.S, M);
      if (i == 0 || !shared) Q.insert(Q.end(), Qq.begin(), Qq.begin() + M * M);
      b.insert(b.end(), Qq.begin() + M * M, Qq.end());
    }
    auto work = poison<double>(2 * descent_size(p)), coef = poison<double>(2 * M);
    auto intercept = poison<double>(2), gap = poison<double>(2);
    on_device(what,
              {reads(designs), reads(targets), reads(Q), reads(b), writes(work), writes(coef),
               writes(intercept), writes(gap)},
              [&] {
                return descend_cuda(designs.data(), step, targets.data(), Q.data(),
                                    shared ? 0 : M * M, b.data(), p, rule, work.data(), coef.data(),
                                    intercept.data(), gap.data(), 2, nullptr);
              });
    for (int64_t i = 0; i < 2; ++i) {
      Problem<T> one = q;
      one.y.assign(two.y.begin() + i * p.S, two.y.begin() + (i + 1) * p.S);
      Lasso got{{coef.begin() + i * M, coef.begin() + (i + 1) * M}, gap[size(i)]};
      got.result.push_back(intercept[size(i)]);
      expect_minimum(what, one, rule, got);
    }
  }
}

template <class T>
void test_lasso(const Problem<T>& q) {
  for (const double alpha : {0.01, 0.25, 1e3}) {
    const LassoRule rule{alpha, 1e-12, 1000};
    const auto what = q.what + " lasso " + std::to_string(alpha);
    const Lasso got = lasso_alone(q, rule);
    expect_minimum(what, q, rule, got);
    lasso_on_device(what + " on the device", q, rule, false);
    lasso_on_device(what + " shared, on the device", q, rule, true);
    if (!is_played<T>(q.p)) continue;
    for (const Workers w : kTeams)
      expect_minimum(what + " team", q, rule, lasso_as_block(q, rule, w));
  }
  const Lasso cut = lasso_alone(q, LassoRule{0.01, 1e-15, 1});
  check(cut.gap >= 0, q.what + " lasso: the gap of a descent that was cut short");
}

// ---- extremes ---------------------------------------------------------------------------------

template <class T>
Problem<T> scaled_problem(Problem<T> q, int x, int y, int w) {
  for (auto& v : q.X) v = std::scalbn(v, x);
  for (auto& v : q.y) v = std::scalbn(v, y);
  for (auto& v : q.weight) v = std::scalbn(v, w);
  return q;
}

// No square overflows and no difference of infinities is taken: powers of two change no digit.
void test_scale(int x, int y, int w) {
  const auto what = label<double>("scale", {x, y, w});
  const auto plain = problem<double>(17, 6, 0, 0.0, true);
  auto q = scaled_problem(plain, x, y, w);
  Doubles want = solve_alone(plain);
  for (int64_t k = 0; k < q.p.M; ++k) want[k] = std::scalbn(want[k], y - x);
  want.back() = std::scalbn(want.back(), y);
  expect(what, solve_alone(q), want, 0);
  const Lasso lasso = lasso_alone(q, LassoRule{0.5, 1e-12, 100});
  for (const double c : lasso.result) check(!std::isnan(c), what + ": lasso");
  check(lasso.gap >= 0, what + ": gap");
  q.p.ridge = 0.5;
  for (const double c : solve_alone(q)) check(!std::isnan(c), what + ": ridge");
}

void test_scales() {
  for (const int x : {-900, 0, 900}) {
    for (const int y : {-900, 0, 900}) {
      for (const int w : {-800, 0, 800}) test_scale(x, y, w);
    }
  }
}

// What is no number in the input is none in the output: nothing hides it.
void test_nan() {
  for (const int place : {0, 1, 2}) {
    auto q = problem<double>(9, 4, 1, 0.0, true);
    (place == 0 ? q.X[6] : place == 1 ? q.y[3] : q.weight[2]) = std::nan("");
    const auto what = label<double>("nan", {place});
    for (const double c : solve_alone(q)) check(std::isnan(c), what + ": least squares");
    const Lasso lasso = lasso_alone(q, LassoRule{0.01, 1e-12, 100});
    check(std::isnan(lasso.result.back()) || std::isnan(lasso.gap), what + ": lasso");
  }
}

template <class T>
void test_type() {
  for (const auto [S, M] : kSizes) {
    for (int kind = 0; kind < kKinds; ++kind) {
      for (const bool intercept : {false, true}) {
        test_least_squares(problem<T>(S, M, kind, 0.0, intercept));
        test_least_squares(problem<T>(S, M, kind, 0.375, intercept));
        test_lasso(problem<T>(S, M, kind, 0.0, intercept));
      }
    }
  }
}

}  // namespace
}  // namespace xaifast

int main() {
  using namespace xaifast;
  test_vectors();
  test_type<float>();
  test_type<double>();
  test_scales();
  test_nan();
  return report();
}
