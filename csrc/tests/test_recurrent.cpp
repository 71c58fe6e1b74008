// Native tests of the recurrent kernels; how they are made: checks.h.
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "recurrent/cell.h"
#include "recurrent/cell_element.h"
#include "tests/checks.h"

namespace xaifast {
namespace {

// ---- activation functions ---------------------------------------------------------------------

template <class T>
void test_activations() {
  const double limit = 8 * double(std::numeric_limits<T>::epsilon());
  const auto near = [&](double got, double want, const char* what, double x) {
    check(std::abs(got - want) <= limit * std::abs(want),
          std::string(what) + " of " + std::to_string(x) + " in " + type_name<T>());
  };
  for (const double size : {1e-30, 1e-9, 1e-4, 0.01, 0.1, 0.17, 0.3, 0.5, 1.0, 3.0, 9.0, 30.0}) {
    for (const double sign : {1.0, -1.0}) {
      const T x = T(size * sign);
      near(sigm(x), 1 / (1 + std::exp(-double(x))), "sigm", x);
      near(tanh_of(x), std::tanh(double(x)), "tanh", x);
    }
  }
  const T huge = std::numeric_limits<T>::max();
  check(sigm(huge) == T(1) && tanh_of(huge) == T(1) && tanh_of(-huge) == T(-1), "saturation");
  check(sigm(-huge) >= T(0) && sigm(-huge) < T(1e-30), "a closed gate");
  check(std::isnan(sigm(T(NAN))) && std::isnan(tanh_of(T(NAN))), "a NaN stays");
  check(tanh_of(T(0)) == T(0) && sigm(T(0)) == T(0.5), "at zero");
}

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

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

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
      const double p = logistic(zj[0]) * std::tanh(zj[2]) * share;
      const double q = logistic(zj[1]) * c[at] * share;
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

template <class T>
void test_all() {
  test_activations<T>();
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
