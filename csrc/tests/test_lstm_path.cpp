// Native tests of the LSTM path kernel; how they are made: checks.h. The activations meet those of
// the standard library in the next wider type; the kernel meets central differences of a plain
// recurrence, and itself with gates that are computed anew.
#include <barrier>
#include <cmath>
#include <deque>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/activations.h"
#include "lstm_path/kernels_cuda.h"
#include "lstm_path/lstm_path.h"
#include "lstm_path/lstm_path_steps.h"
#include "tests/checks.h"

namespace xaifast {
namespace {

using Real = long double;

std::size_t size(int64_t n) { return static_cast<std::size_t>(n); }

// ---- activations ------------------------------------------------------------------------------

// The largest error, in units of the rounding of the exact value.
template <class T>
void test_activations() {
  const Real unit = std::numeric_limits<T>::epsilon();
  Real logistic_error = 0, tanh_error = 0;
  for (int e = -40; e <= 8; ++e) {
    for (int i = 0; i < 1000; ++i) {
      for (const int sign : {1, -1}) {
        const T x = static_cast<T>(sign * std::ldexp(1.0 + i / 1000.0, e));
        if (std::abs(x) > T(80)) continue;  // where the logistic function leaves the normal numbers
        const Real s = 1 / (1 + std::exp(-static_cast<Real>(x)));
        const Real t = std::tanh(static_cast<Real>(x));
        logistic_error = std::max(logistic_error, std::abs((logistic(x) - s) / s) / unit);
        tanh_error = std::max(tanh_error, std::abs((hyperbolic_tangent(x) - t) / t) / unit);
      }
    }
  }
  const std::string what = type_name<T>();
  check(logistic_error < 4, what + " logistic: " + std::to_string(logistic_error) + " units");
  check(tanh_error < 6, what + " tanh: " + std::to_string(tanh_error) + " units");
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const std::vector<T> ends = {logistic(T(0)),
                               hyperbolic_tangent(T(0)),
                               logistic(kInfinity),
                               hyperbolic_tangent(kInfinity),
                               hyperbolic_tangent(-kInfinity),
                               logistic(T(1e4)),
                               logistic(std::numeric_limits<T>::quiet_NaN()),
                               hyperbolic_tangent(std::numeric_limits<T>::quiet_NaN())};
  const double nan = std::nan("");
  expect(what + " ends", ends, {0.5, 0, 1, 1, -1, 1, nan, nan}, 0);
  check(logistic(-kInfinity) >= 0 && logistic(-kInfinity) < 1e-37, what + " logistic of -infinity");
}

// ---- the kernel -------------------------------------------------------------------------------

template <class T>
struct Sample {
  LstmShape p;
  std::vector<T> start, change, w, w_t, seed_h, seed_c;
  Doubles alpha, weight;
  std::vector<int64_t> step;

  explicit Sample(const LstmShape& shape) : p(shape) {
    start = numbers<T>(p.steps * p.gates(), 1);
    change = numbers<T>(p.steps * p.gates(), 2);
    w = numbers<T>(p.gates() * p.hidden, 3);
    for (auto& x : w) x /= T(4);
    w_t.assign(size(p.padded() * p.gates()), T(0));
    for (int64_t r = 0; r < p.gates(); ++r) {
      for (int64_t j = 0; j < p.hidden; ++j)
        w_t[size(j * p.gates() + r)] = w[size(r * p.hidden + j)];
    }
    seed_h = numbers<T>(p.targets * p.hidden, 4);
    seed_c = numbers<T>(p.targets * p.hidden, 5);
    weight = numbers<double>(p.targets * p.nodes, 6);
    for (int64_t k = 0; k < p.nodes; ++k) alpha.push_back((k + 0.5) / static_cast<double>(p.nodes));
    for (int64_t m = 0; m < p.targets; ++m) step.push_back((m * 5 + p.steps - 1) % p.steps);
  }

  LstmPath<T> path() const {
    return {start.data(),  change.data(), w.data(),    w_t.data(), alpha.data(), weight.data(),
            seed_h.data(), seed_c.data(), step.data(), p.nodes,    p.hidden,     1};
  }

  // S of target m at node k, where element e of what enters the gates is moved.
  Real score(int64_t m, int64_t k, int64_t e, Real by) const {
    const int64_t H = p.hidden;
    std::vector<Real> h(size(H), 0), c(size(H), 0), a(size(4 * H));
    for (int64_t t = 0; t <= step[size(m)]; ++t) {
      for (int64_t r = 0; r < 4 * H; ++r) {
        const int64_t at = t * 4 * H + r;
        Real x =
            static_cast<Real>(start[size(at)]) +
            static_cast<Real>(static_cast<T>(alpha[size(k)])) * static_cast<Real>(change[size(at)]);
        if (at == e) x += by;
        for (int64_t j = 0; j < H; ++j) x += static_cast<Real>(w[size(r * H + j)]) * h[size(j)];
        a[size(r)] = x;
      }
      for (int64_t j = 0; j < H; ++j) {
        const auto sigma = [](Real x) { return 1 / (1 + std::exp(-x)); };
        c[size(j)] =
            sigma(a[size(H + j)]) * c[size(j)] + sigma(a[size(j)]) * std::tanh(a[size(2 * H + j)]);
        h[size(j)] = sigma(a[size(3 * H + j)]) * std::tanh(c[size(j)]);
      }
    }
    Real S = 0;
    for (int64_t j = 0; j < H; ++j) {
      S += static_cast<Real>(seed_h[size(m * H + j)]) * h[size(j)] +
           static_cast<Real>(seed_c[size(m * H + j)]) * c[size(j)];
    }
    return S;
  }
};

struct Result {
  Doubles total, S, slope;
};

template <class T>
Result run(const Sample<T>& sample, int64_t segment) {
  LstmShape p = sample.p;
  p.segment = segment;
  Result r{Doubles(size(p.targets * p.steps * p.gates()), 0.0), poison<double>(p.targets * p.nodes),
           poison<double>(p.targets * p.nodes)};
  auto work = poison<T>(lstm_path_work(p, kLanes<T>));
  const int64_t half = p.nodes / 2;  // two parts are one
  for (const auto& [begin, end] : {std::pair{int64_t{0}, half}, std::pair{half, p.nodes}}) {
    lstm_path(sample.path(), p, begin, end, work.data(), r.total.data(), r.S.data(),
              r.slope.data());
  }
  return r;
}

template <class T>
void test_path(const LstmShape& p) {
  const Sample<T> sample(p);
  const Result got = run(sample, p.steps);
  const auto what = label<T>("lstm_path", {p.steps, p.hidden, p.targets, p.nodes});
  const double allowed = std::is_same_v<T, double> ? 1e-8 : 1e-5;  // of the differences
  Doubles S, slope(size(p.targets * p.nodes), 0.0), total(got.total.size(), 0.0);
  const Real by = 1e-5L;
  for (int64_t m = 0; m < p.targets; ++m) {
    for (int64_t k = 0; k < p.nodes; ++k) {
      S.push_back(static_cast<double>(sample.score(m, k, -1, 0)));
      for (int64_t e = 0; e < p.steps * p.gates(); ++e) {
        const Real da = (sample.score(m, k, e, by) - sample.score(m, k, e, -by)) / (2 * by);
        total[size(m * p.steps * p.gates() + e)] +=
            static_cast<double>(da) * sample.weight[size(m * p.nodes + k)];
        slope[size(m * p.nodes + k)] +=
            static_cast<double>(da * static_cast<Real>(sample.change[size(e)]));
      }
    }
  }
  expect(what + " S", got.S, S, allowed);
  expect(what + " slope", got.slope, slope, allowed);
  expect(what + " total", got.total, total, allowed);
  for (int64_t segment = 1; segment < p.steps; segment += 2) {
    const Result again = run(sample, segment);
    const auto which = what + " segment " + std::to_string(segment);
    expect(which + " S", again.S, got.S, 0);
    expect(which + " slope", again.slope, got.slope, 0);
    expect(which + " total", again.total, got.total, 0);
  }
}

// ---- a thread block, played by threads ----------------------------------------------------------

struct PlayedStage {
  int64_t lanes_, units_;
  std::barrier<> all;
  std::deque<std::barrier<>> rows;
  Doubles shown;

  PlayedStage(int64_t lanes, int64_t units)
      : lanes_(lanes), units_(units), all(lanes * units), shown(size(lanes * units)) {
    for (int64_t u = 0; u < units; ++u) rows.emplace_back(lanes);
  }
};

struct PlayedBlock {
  PlayedStage& stage;
  int64_t lane_, unit_;

  int64_t lane() const { return lane_; }
  int64_t lanes() const { return stage.lanes_; }
  int64_t unit() const { return unit_; }
  int64_t units() const { return stage.units_; }
  void sync() const { stage.all.arrive_and_wait(); }
  double add(double x) const {
    double* row = stage.shown.data() + unit_ * lanes();
    row[lane_] = x;
    stage.rows[size(unit_)].arrive_and_wait();
    double sum = 0;
    for (int64_t l = 0; l < lanes(); ++l) sum += row[l];
    stage.rows[size(unit_)].arrive_and_wait();
    return sum;
  }
};

template <class T>
Result run_block(const Sample<T>& sample, int64_t segment, int64_t lanes, int64_t units) {
  LstmShape p = sample.p;
  p.segment = segment;
  const LstmBatch<T> batch{sample.path(), p, true, 2, lanes};
  Result r{Doubles(size(p.targets * p.steps * p.gates()), 0.0), poison<double>(p.targets * p.nodes),
           poison<double>(p.targets * p.nodes)};
  const LstmPath<T> path = batch.path(0);
  for (int64_t part = 0; part < batch.parts; ++part) {
    auto work = poison<T>(lstm_path_work(p, lanes));
    auto slopes = poison<double>(p.targets * units * lanes);
    PlayedStage stage(lanes, units);
    std::vector<std::thread> threads;
    for (int64_t i = 0; i < lanes * units; ++i) {
      threads.emplace_back([&, i] {
        lstm_path_with(PlayedBlock{stage, i % lanes, i / lanes}, batch, path, part, work.data(),
                       slopes.data(), r.total.data(), r.S.data(), r.slope.data());
      });
    }
    for (auto& thread : threads) thread.join();
  }
  return r;
}

template <class T>
void test_block(const LstmShape& p) {
  Sample<T> sample(p);
  const double allowed = std::is_same_v<T, double> ? 1e-13 : 1e-5;
  const auto what = label<T>("block", {p.steps, p.hidden, p.targets, p.nodes});
  const Result want = run(sample, p.steps);
  for (const int64_t segment : {p.steps, (p.steps + 1) / 2}) {
    const Result got = run_block(sample, segment, 3, 2);
    expect(what + " S", got.S, want.S, allowed);
    expect(what + " slope", got.slope, want.slope, allowed);
    expect(what + " total", got.total, want.total, allowed);
  }
  sample.step[0] = p.steps;  // which is no step
  const Result got = run_block(sample, p.steps, 3, 2);
  check(std::isnan(got.S[0]) && std::isnan(got.slope[0]), what + " no such step");
}

// ---- the CUDA kernel --------------------------------------------------------------------------

// Samples [1, 3) of a batch of three, each path in two parts, against the CPU's kernel sample by
// sample. Sample n has the numbers of sample 0, shifted by n.
template <class T>
void test_batch(const LstmShape& shape, int64_t segment, bool one_start) {
  constexpr int64_t kSamples = 3, kFirst = 1, kCount = 2, kParts = 2;
  LstmShape p = shape;
  p.segment = segment;
  const int64_t M = p.targets, K = p.nodes, H = p.hidden, rows = p.steps * p.gates();
  std::vector<Sample<T>> samples;
  std::vector<T> start, change, seed_h(size(M * kSamples * H)), seed_c(seed_h);
  Doubles alpha, weight(size(M * kSamples * K));
  std::vector<int64_t> step(size(M * kSamples));
  for (int64_t n = 0; n < kSamples; ++n) {
    Sample<T> s(shape);
    for (auto& x : s.change) x += static_cast<T>(n) / 8;
    for (auto& x : s.seed_h) x -= static_cast<T>(n) / 4;
    for (auto& x : s.start) x += one_start ? T(0) : static_cast<T>(n) / 16;
    for (auto& k : s.step) k = (k + n) % p.steps;
    if (n == 0 || !one_start) start.insert(start.end(), s.start.begin(), s.start.end());
    change.insert(change.end(), s.change.begin(), s.change.end());
    alpha.insert(alpha.end(), s.alpha.begin(), s.alpha.end());
    for (int64_t m = 0; m < M; ++m) {  // [M, N, ...]
      const int64_t at = m * kSamples + n;
      std::copy_n(s.seed_h.begin() + m * H, H, seed_h.begin() + at * H);
      std::copy_n(s.seed_c.begin() + m * H, H, seed_c.begin() + at * H);
      std::copy_n(s.weight.begin() + m * K, K, weight.begin() + at * K);
      step[size(at)] = s.step[size(m)];
    }
    samples.push_back(std::move(s));
  }
  const Sample<T>& s0 = samples[0];
  const LstmPath<T> path{start.data(), change.data(), s0.w.data(),   s0.w_t.data(),
                         alpha.data(), weight.data(), seed_h.data(), seed_c.data(),
                         step.data(),  kSamples * K,  kSamples * H,  kSamples};
  const LstmBatch<T> batch{path, p, one_start, kParts, kCudaLanes};
  const int64_t items = kCount * kParts;
  auto work = poison<T>(items * lstm_path_work(p, kCudaLanes));
  auto slopes = poison<double>(items * M * kCudaUnits * kCudaLanes);
  Doubles sums(size(items * M * rows), 0.0);
  auto S = poison<double>(M * kSamples * K), slope = S;
  const auto what =
      label<T>("lstm_path", {p.steps, H, M, K, segment, one_start}) + " on the device";
  on_device(what,
            {reads(start), reads(change), reads(s0.w), reads(s0.w_t), reads(alpha), reads(weight),
             reads(seed_h), reads(seed_c), reads(step), writes(work), writes(slopes), updates(sums),
             writes(S), writes(slope)},
            [&] {
              return lstm_path_cuda<T>(batch, kFirst, kCount, work.data(), slopes.data(),
                                       sums.data(), S.data(), slope.data(), nullptr);
            });
  const double allowed = std::is_same_v<T, double> ? 1e-13 : 1e-5;
  for (int64_t i = 0; i < kCount; ++i) {
    const int64_t n = kFirst + i;
    const Result want = run(samples[size(n)], p.steps);
    Doubles total(want.total.size(), 0.0), S_n, slope_n;
    for (int64_t part = 0; part < kParts; ++part) {
      for (std::size_t e = 0; e < total.size(); ++e) {
        total[e] += sums[size((i * kParts + part) * M * rows) + e];
      }
    }
    for (int64_t m = 0; m < M; ++m) {
      const auto at = size((m * kSamples + n) * K);
      S_n.insert(S_n.end(), S.begin() + at, S.begin() + at + K);
      slope_n.insert(slope_n.end(), slope.begin() + at, slope.begin() + at + K);
    }
    expect(what + " S", S_n, want.S, allowed);
    expect(what + " slope", slope_n, want.slope, allowed);
    expect(what + " total", total, want.total, allowed);
  }
}

template <class T>
void test_device() {
  if constexpr (kEmulated) {
    for (const auto& p : {LstmShape{6, 3, 3, 5, 6}, LstmShape{1, 1, 1, 1, 1},
                          LstmShape{4, 9, 2, 70, 4}, LstmShape{7, 8, 1, 33, 7}}) {
      for (const bool one_start : {false, true}) {
        test_batch<T>(p, p.steps, one_start);
        test_batch<T>(p, (p.steps + 1) / 2, one_start);
      }
    }
  }
}

template <class T>
void test_all() {
  test_activations<T>();
  test_device<T>();
  for (const auto& p : {LstmShape{6, 3, 3, 5, 6}, LstmShape{1, 1, 1, 1, 1},
                        LstmShape{4, 5, 2, 40, 4}, LstmShape{7, 4, 1, 2, 7}}) {
    test_path<T>(p);
    test_block<T>(p);
  }
}

}  // namespace
}  // namespace xaifast

int main() {
  xaifast::test_all<float>();
  xaifast::test_all<double>();
  return xaifast::report();
}
