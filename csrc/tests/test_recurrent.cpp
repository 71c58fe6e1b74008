// Native tests of the recurrent kernels; how they are made: checks.h.
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "recurrent/cell.h"
#include "recurrent/cell_element.h"
#include "recurrent/kernels_cuda.h"
#include "tests/checks.h"

namespace xaifast {
namespace {

// ---- one step back, against table 11.1 and section 11.3.3 in float64 ---------------------------

struct Naive {
  GateRule rule;
  double eps;

  double over(double R, double z) const {
    const double d = z >= 0 ? z + eps : z - eps;
    return d == 0 ? 0 : R / d;
  }
  double signal(double g, double s, double R) const {
    if (rule == GateRule::kAll) return R;
    if (rule == GateRule::kHalf) return R / 2;
    if (rule == GateRule::kProp) return s * over(R, g + s);
    return std::abs(s) * over(R, std::abs(g) + std::abs(s));
  }
  double gate(double g, double s, double R) const {
    return rule == GateRule::kAll ? 0 : rule == GateRule::kHalf ? R / 2 : signal(s, g, R);
  }
};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Small numbers of both signs, none of which repeats soon.
double number(std::int64_t i) { return double(i * 7919 % 67 - 33) / 16 + 0.01; }

template <class T>
void test_lstm_back(GateRule rule, std::int64_t rows, std::int64_t H) {
  const Naive naive{rule, 0.25};
  std::vector<T> z(4 * rows * H), b(4 * H), c(rows * H), next(rows * H), R_h(rows * H),
      R_c(rows * H);
  std::int64_t count = 0;
  for (auto* x : {&z, &b, &c, &next, &R_h, &R_c}) {
    for (T& v : *x) v = T(number(++count));
  }
  const std::int64_t blocks = rule == GateRule::kAll ? 1 : 4;
  std::vector<T> s(blocks * rows * H, T(NAN)), R_c_before = R_c;
  lstm_step_back(z.data(), b.data(), c.data(), next.data(), R_h.data(), R_c.data(), s.data(), rule,
                 naive.eps, rows, H);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < H; ++j) {
      const std::int64_t at = i * H + j;
      double zj[4], d[4];
      for (int k = 0; k < 4; ++k) {
        zj[k] = z[(4 * i + k) * H + j];
        d[k] = double(T(z[(4 * i + k) * H + j] - b[k * H + j]));
      }
      const double out = naive.signal(zj[3], next[at], R_h[at]);
      const double share = naive.over(R_c_before[at] + out, next[at]);
      const double p = sigmoid(zj[0]) * std::tanh(zj[2]) * share;
      const double q = sigmoid(zj[1]) * c[at] * share;
      const double want[4] = {naive.over(naive.gate(zj[0], zj[2], p), d[0]),
                              naive.over(naive.gate(zj[1], c[at], q), d[1]),
                              naive.over(naive.signal(zj[0], zj[2], p), d[2]),
                              naive.over(naive.gate(zj[3], next[at], R_h[at]), d[3])};
      const double limit = std::is_same_v<T, double> ? 1e-12 : 1e-3;
      for (std::int64_t k = 0; k < blocks; ++k) {
        const double expected = want[blocks == 1 ? 2 : k];
        check(std::abs(double(s[(blocks * i + k) * H + j]) - expected) <=
                  limit * (1 + std::abs(expected)),
              std::string("lstm_step_back in ") + type_name<T>());
      }
      const double kept = naive.signal(zj[1], c[at], q);
      check(std::abs(double(R_c[at]) - kept) <= limit * (1 + std::abs(kept)), "R of c");
    }
  }
}

// ---- all steps, on the emulated device
// -----------------------------------------------------------

// A layer, and what it makes step by step with the CPU's kernels and plain loops for the products.
template <class T>
struct Layer {
  SequenceShape p;
  std::vector<std::int64_t> lengths;
  std::int64_t blocks;  // of the recurrent weight
  std::vector<T> a, w, w_t, b, z, h, c;

  std::vector<T> some(std::int64_t n, std::int64_t seed) const {
    std::vector<T> x(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) x[i] = T(number(i * 3 + seed)) / T(2);
    return x;
  }

  Layer(std::int64_t targets, std::int64_t steps, std::int64_t N, std::int64_t H, bool lstm,
        bool with_lengths)
      : p{targets, steps, N, H, lstm, nullptr}, blocks(lstm ? 4 : 3) {
    for (std::int64_t n = 0; n < N; ++n)
      lengths.push_back(with_lengths ? (n * 3 + 1) % (steps + 1) : steps);
    const std::int64_t width = blocks * H;
    a = some(steps * N * width, 1);
    w = some(width * H, 2);
    for (auto& x : w) x /= T(H);
    w_t.resize(w.size());
    for (std::int64_t r = 0; r < width; ++r) {
      for (std::int64_t j = 0; j < H; ++j) w_t[j * width + r] = w[r * H + j];
    }
    b = some(width, 3);
    z.assign(steps * N * 4 * H, T(0));
    h.assign((steps + 1) * N * H, T(0));
    c.assign(lstm ? h.size() : 0, T(0));
    for (std::int64_t i = 0; i < N * H; ++i) h[i] = T(number(i));
    for (std::int64_t i = 0; i < (lstm ? N * H : 0); ++i) c[i] = T(number(i + 5));
  }

  // One sample at a time: z, h and c of all steps that it has.
  void make_states() {
    const std::int64_t H = p.H, width = blocks * H;
    for (std::int64_t n = 0; n < p.N; ++n) {
      for (std::int64_t t = 0; t < lengths[n]; ++t) {
        const std::int64_t now = t * p.N + n, next = now + p.N;
        std::vector<T> q(b);
        for (std::int64_t r = 0; r < width; ++r) {
          for (std::int64_t j = 0; j < H; ++j) q[r] += w[r * H + j] * h[now * H + j];
        }
        if (p.lstm) {
          for (std::int64_t r = 0; r < width; ++r) z[now * width + r] = a[now * width + r] + q[r];
          lstm_step(&z[now * width], &c[now * H], &c[next * H], &h[next * H], 1, H);
        } else {
          gru_step(&a[now * width], q.data(), &h[now * H], &z[now * 4 * H], &h[next * H], 1, H);
        }
      }
    }
  }
};

template <class T>
Doubles wide(const std::vector<T>& x) {
  return {x.begin(), x.end()};
}

template <class T>
constexpr double kSequenceTolerance = std::is_same_v<T, double> ? 1e-11 : 2e-4;

template <class T>
void test_states_on_device(Layer<T> layer, const std::string& what, bool with_lengths) {
  if constexpr (kEmulated) {
    auto z = layer.z, h = layer.h, c = layer.c;
    layer.make_states();
    SequenceShape p = layer.p;
    p.lengths = with_lengths ? layer.lengths.data() : nullptr;
    on_device(what,
              {reads(layer.a), reads(layer.w_t), reads(layer.b), reads(layer.lengths), updates(z),
               updates(h), updates(c)},
              [&] {
                return recurrent_states_cuda<T>(layer.a.data(), layer.w_t.data(), layer.b.data(),
                                                z.data(), h.data(), c.data(), p, nullptr);
              });
    expect(what + " z", z, wide(layer.z), kSequenceTolerance<T>);
    expect(what + " h", h, wide(layer.h), kSequenceTolerance<T>);
    expect(what + " c", c, wide(layer.c), kSequenceTolerance<T>);
  }
}

// Relevance of one target and sample through all of its steps, by the CPU's kernels.
template <class T>
void relprop_row(const Layer<T>& layer, const std::vector<T>& w, const std::vector<T>& bias,
                 const std::vector<T>& R, std::int64_t target, std::int64_t n, GateRule rule,
                 double eps, std::int64_t width, std::vector<T>& R_h, std::vector<T>& R_c,
                 std::vector<T>& s) {
  const SequenceShape& p = layer.p;
  const std::int64_t H = p.H, row = target * p.N + n;
  for (std::int64_t t = layer.lengths[n] - 1; t >= 0; --t) {
    const std::int64_t now = t * p.N + n, next = now + p.N;
    const std::int64_t here = (target * p.T + t) * p.N + n;
    std::vector<T> above(H), direct(H, T(0)), s_h(width), product(H, T(0));
    for (std::int64_t j = 0; j < H; ++j) above[j] = R_h[row * H + j] + R[here * H + j];
    T* const sj = &s[here * width];
    if (p.lstm) {
      lstm_step_back(&layer.z[now * 4 * H], bias.data(), &layer.c[now * H], &layer.c[next * H],
                     above.data(), &R_c[row * H], sj, rule, eps, 1, H);
      s_h.assign(sj, sj + width);
    } else {
      gru_step_back(&layer.z[now * 4 * H], bias.data(), &layer.h[now * H], &layer.h[next * H],
                    above.data(), direct.data(), sj, s_h.data(), rule, eps, 1, H);
    }
    for (std::int64_t k = 0; k < width; ++k) {
      for (std::int64_t j = 0; j < H; ++j) product[j] += s_h[k] * w[k * H + j];
    }
    gather_state<T>(&layer.h[now * H], product.data(), p.lstm ? nullptr : direct.data(), nullptr,
                    &R_h[row * H], H);
  }
}

template <class T>
void test_relprop_on_device(Layer<T> layer, GateRule rule, const std::string& what,
                            bool with_lengths) {
  if constexpr (kEmulated) {
    constexpr double kEps = 0.5;
    SequenceShape p = layer.p;
    p.lengths = with_lengths ? layer.lengths.data() : nullptr;
    layer.make_states();
    const bool all = rule == GateRule::kAll;
    const std::int64_t H = p.H, width = all ? H : layer.blocks * H, rows = p.targets * p.N;
    std::vector<T> w = layer.w;
    if (all) w.assign(layer.w.begin() + 2 * H * H, layer.w.begin() + 3 * H * H);
    const auto bias = layer.some(4 * H, 4), R = layer.some(rows * p.T * H, 5);
    auto R_h = layer.some(rows * H, 6), R_c = layer.some(p.lstm ? rows * H : 0, 7);
    std::vector<T> s(rows * p.T * width, T(0));
    auto want_h = R_h, want_c = R_c, want_s = s;
    for (std::int64_t target = 0; target < p.targets; ++target) {
      for (std::int64_t n = 0; n < p.N; ++n) {
        relprop_row(layer, w, bias, R, target, n, rule, kEps, width, want_h, want_c, want_s);
      }
    }
    on_device(what,
              {reads(layer.z), reads(layer.h), reads(layer.c), reads(w), reads(bias), reads(R),
               reads(layer.lengths), updates(R_h), updates(R_c), updates(s)},
              [&] {
                return recurrent_relprop_cuda<T>(layer.z.data(), layer.h.data(),
                                                 p.lstm ? layer.c.data() : nullptr, w.data(),
                                                 bias.data(), R.data(), R_h.data(), R_c.data(),
                                                 s.data(), p, rule, kEps, nullptr);
              });
    expect(what + " R_h", R_h, wide(want_h), kSequenceTolerance<T>);
    expect(what + " R_c", R_c, wide(want_c), kSequenceTolerance<T>);
    expect(what + " s", s, wide(want_s), kSequenceTolerance<T>);
  }
}

// Units that do not fill a warp, that fill some, more than a block's threads, and the most there
// are.
template <class T>
void test_sequences() {
  for (const auto& [targets, steps, N, H] :
       {std::array<std::int64_t, 4>{2, 0, 3, 5}, {2, 3, 0, 5}, {0, 3, 2, 5}, {1, 3, 2, 0}}) {
    const Layer<T> layer(targets, steps, N, H, true, false);
    const auto what = label<T>("empty sequence", {targets, steps, N, H});
    test_states_on_device(layer, what, false);
    test_relprop_on_device(layer, GateRule::kProp, what, false);
  }
  for (const std::int64_t H : {1, 5, 32, 33, 300, int(kMaxUnits)}) {
    const std::int64_t N = H > 100 ? 2 : 5, steps = H > 100 ? 2 : 4;
    for (const bool lstm : {false, true}) {
      for (const bool with_lengths : {false, true}) {
        const Layer<T> layer(2, steps, N, H, lstm, with_lengths);
        const auto what = label<T>("sequence", {steps, N, H, lstm, with_lengths});
        test_states_on_device(layer, what, with_lengths);
        for (const auto rule : {GateRule::kAll, GateRule::kProp, GateRule::kAbs, GateRule::kHalf}) {
          test_relprop_on_device(
              layer, rule, what + " rule " + std::to_string(static_cast<int>(rule)), with_lengths);
        }
      }
    }
  }
}

template <class T>
void test_all() {
  test_sequences<T>();
  for (const auto rule : {GateRule::kAll, GateRule::kProp, GateRule::kAbs, GateRule::kHalf}) {
    for (const std::int64_t H : {1, 5, 33}) test_lstm_back<T>(rule, 3, H);
    test_lstm_back<T>(rule, 0, 4);
  }
}

}  // namespace
}  // namespace xaifast

int main() {
  xaifast::test_all<float>();
  xaifast::test_all<double>();
  return xaifast::report();
}
