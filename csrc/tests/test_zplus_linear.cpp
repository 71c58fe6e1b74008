// Native tests of zplus_linear; how they are made: checks.h.
#include <cmath>
#include <string>
#include <vector>

#include "relevance/backward_product.h"
#include "relevance/zplus_linear.h"
#include "tests/checks.h"

namespace xaifast {
namespace {

double by_sign(double x, const SignPart& p) { return (x > 0 ? p.positive : p.negative) * x; }

template <class T>
Doubles naive(const std::vector<T>& a, const std::vector<T>& R, const std::vector<T>& w, const T* b,
              const ZplusLinear& s) {
  Doubles r(static_cast<std::size_t>(s.rows() * s.J), 0.0);
  for (int64_t i = 0; i < s.rows() * s.K * s.parts; ++i) {
    const SignPart& part = s.part[i % s.parts];
    const int64_t row = i / s.parts / s.K, k = i / s.parts % s.K, n = row % s.N;
    double z = b == nullptr ? 0 : by_sign(value(b[k]), part);
    for (int64_t j = 0; j < s.J; ++j)
      z += by_sign(value(a[n * s.J + j]) * value(w[k * s.J + j]), part);
    const double d = z >= 0 ? z + s.eps : z - s.eps;
    const double share = d == 0 ? 0 : part.share * value(R[row * s.K + k]) / d;
    for (int64_t j = 0; j < s.J; ++j) {
      r[row * s.J + j] += by_sign(value(a[n * s.J + j]) * value(w[k * s.J + j]), part) * share;
    }
  }
  return r;
}

// In blocks of so many units, as by threads.
template <class T>
std::vector<T> run(const std::vector<T>& a, const std::vector<T>& R, const std::vector<T>& w,
                   const T* b, const ZplusLinear& s, int64_t block) {
  std::vector<int64_t> units(static_cast<std::size_t>(s.K));
  const int64_t count = nonzero_rows(R.data(), {s.rows(), s.K, s.J}, units.data());
  const int64_t blocks = (count + block - 1) / block, n = s.rows() * s.J;
  auto c = poison<T>(blocks * n), r = poison<T>(n);
  for (int64_t i = 0; i < blocks; ++i) {
    zplus_linear(a.data(), R.data(), w.data(), b, c.data() + i * n, s, units.data(), i * block,
                 std::min((i + 1) * block, count));
  }
  sum_blocks(c.data(), a.data(), r.data(), s, blocks, 0, n / 3);
  sum_blocks(c.data(), a.data(), r.data(), s, blocks, n / 3, n);
  return r;
}

template <class T>
void test_shape(ZplusLinear s, bool with_bias) {
  const auto what = label<T>("zplus_linear", {s.targets, s.N, s.K, s.J, s.parts, with_bias});
  const auto a = numbers<T>(s.N * s.J, 1), biases = numbers<T>(s.K, 4);
  auto w = numbers<T>(s.K * s.J, 2), R = numbers<T>(s.rows() * s.K, 3);
  for (int64_t i = 0; i < s.rows() * s.K; ++i) {
    if (i % s.K % 2 == 0) R[i] = 0;
  }
  const T* b = with_bias ? biases.data() : nullptr;
  const Doubles want = naive(a, R, w, b, s);
  for (int64_t k = 0; k < s.K; k += 2) {  // that meet no relevance
    for (int64_t j = 0; j < s.J; ++j) w[k * s.J + j] = static_cast<T>(std::nanf(""));
  }
  for (const int64_t block : {1, 4, 100}) {
    expect(what + " in blocks", run(a, R, w, b, s, block), want, 64 * tolerance<T>());
  }
}

template <class T>
void test_type() {
  const SignPart plus{1, 1, 0}, alpha{2, 1, 0}, beta{-1, 0, 1}, gamma{1, 1.25, 1};
  for (const int64_t K : {0, 1, 2, 9, 30}) {
    for (const int64_t J : {0, 1, 7, 8, 33, 300, 600}) {
      for (const int64_t targets : {0, 1, 3}) {
        for (const int64_t N : {0, 1, 5}) {
          test_shape<T>({targets, N, K, J, 1, {plus, {}}, 0.25}, false);
          test_shape<T>({targets, N, K, J, 2, {alpha, beta}, 0.25}, true);
          test_shape<T>({targets, N, K, J, 1, {gamma, {}}, 8.0}, true);
        }
      }
    }
  }
}

// Where nothing contributes with this sign, nothing is handed back, with or without a stabilizer.
template <class T>
void test_nothing_to_share() {
  const std::vector<T> a(20, T(1)), R(1, T(3)), w(20, T(-2));
  for (const double eps : {0.0, 1e-6}) {
    const ZplusLinear s{1, 1, 1, 20, 1, {{1, 1, 0}, {}}, eps};
    expect(label<T>("nothing to share", {}), run<T>(a, R, w, nullptr, s, 1), Doubles(20, 0.0), 0);
  }
}

template <class T>
void test_nan_is_kept() {
  const auto nan = static_cast<T>(std::nanf(""));
  for (const int64_t place : {2, 9, 13}) {
    std::vector<T> a(14, T(1)), R(3, T(0)), w(3 * 14, T(1));
    R[1] = 1;
    a[place] = nan;
    const ZplusLinear s{1, 1, 3, 14, 1, {{1, 1, 0}, {}}, 0.5};
    expect(label<T>("NaN in a", {place}), run<T>(a, R, w, nullptr, s, 4), Doubles(14, NAN));
    a[place] = 1;
    w[14 + place] = nan;
    expect(label<T>("NaN in w", {place}), run<T>(a, R, w, nullptr, s, 4), Doubles(14, NAN));
    w[14 + place] = 1;
    R[1] = nan;
    expect(label<T>("NaN in R", {place}), run<T>(a, R, w, nullptr, s, 4), Doubles(14, NAN));
  }
}

}  // namespace
}  // namespace xaifast

int main() {
  using namespace xaifast;
  test_type<float>();
  test_type<double>();
  test_nothing_to_share<float>();
  test_nothing_to_share<double>();
  test_nan_is_kept<float>();
  test_nan_is_kept<double>();
  return report();
}
