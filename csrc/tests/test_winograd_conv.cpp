// winograd against the plain convolution in float64 (checks.h).
#include "relevance/winograd_conv.h"
#include "tests/checks.h"

namespace xaifast {
namespace {

// G w G^T of one 3 x 3 kernel, G as in winograd_conv.h's formula.
void transform(const double (&w)[9], double (&u)[16]) {
  constexpr double G[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  for (int p = 0; p < 16; ++p) {
    u[p] = 0;
    for (int q = 0; q < 9; ++q) u[p] += G[p / 4][q / 3] * w[q] * G[p % 4][q % 3];
  }
}

// [K, C, 3, 3] in the layout of winograd.
template <class T>
std::vector<T> transformed(const std::vector<T>& w, const WinogradShape& s) {
  constexpr int64_t P = 2 * kLanes<T>;
  std::vector<T> u(static_cast<std::size_t>(16 * s.K * s.C));
  for (int64_t k = 0; k < s.K; ++k) {
    for (int64_t c = 0; c < s.C; ++c) {
      double plain[9], made[16];
      for (int q = 0; q < 9; ++q) plain[q] = value(w[(k * s.C + c) * 9 + q]);
      transform(plain, made);
      for (int p = 0; p < 16; ++p) {
        u[((p * (s.K / P) + k / P) * s.C + c) * P + k % P] = static_cast<T>(made[p]);
      }
    }
  }
  return u;
}

template <class T>
double wanted(const WinogradShape& s, const std::vector<T>& x, const std::vector<T>& w, int64_t n,
              int64_t i, int64_t j, int64_t k) {
  double sum = 0;
  for (int q = 0; q < 9; ++q) {
    const int64_t y = i + q / 3 - s.padding, z = j + q % 3 - s.padding;
    if (y < 0 || y >= s.height() || z < 0 || z >= s.width()) continue;
    for (int64_t c = 0; c < s.C; ++c) {
      sum += value(x[((n * s.height() + y) * s.width() + z) * s.C + c]) *
             value(w[(k * s.C + c) * 9 + q]);
    }
  }
  return sum;
}

template <class T>
void test_shape(const WinogradShape& s, bool with_bias, bool relu, int64_t block) {
  const auto x = numbers<T>(s.N * s.height() * s.width() * s.C, 1),
             w = numbers<T>(s.K * s.C * 9, 2);
  const auto b = numbers<T>(s.K, 3), u = transformed(w, s);
  Doubles want;
  for (int64_t p = 0; p < s.N * s.H * s.W; ++p) {
    for (int64_t k = 0; k < s.K; ++k) {
      const double z = wanted(s, x, w, p / (s.H * s.W), p / s.W % s.H, p % s.W, k) +
                       (with_bias ? value(b[k]) : 0.0);
      want.push_back(relu ? std::max(z, 0.0) : z);
    }
  }
  auto y = poison<T>(s.N * s.H * s.W * s.K), scratch = poison<T>(winograd_scratch<T>(s, block));
  const T* bias = with_bias ? b.data() : nullptr;
  const int64_t middle = s.tiles() / 3;  // in two parts, as by two threads
  winograd(x.data(), u.data(), bias, relu, y.data(), scratch.data(), s, block, 0, middle);
  winograd(x.data(), u.data(), bias, relu, y.data(), scratch.data(), s, block, middle, s.tiles());
  expect(label<T>("winograd", {s.N, s.H, s.W, s.C, s.K, s.padding, block}), y, want);
}

template <class T>
void test_type() {
  constexpr int64_t C = kLanes<T>, K = 2 * C;
  for (const int64_t block : {1, 5, 12, 30}) {
    test_shape<T>({2, 5, 7, C, K}, true, false, block);
    test_shape<T>({1, 1, 1, C, 2 * K}, false, true, block);
    test_shape<T>({1, 8, 6, 5 * C, K}, true, true, block);  // more than one chain
    test_shape<T>({3, 2, 3, 2 * C, K}, false, false, block);
    test_shape<T>({2, 5, 7, C, K, 0}, true, true, block);
    test_shape<T>({1, 1, 2, 3 * C, K, 0}, false, false, block);
  }
  test_shape<T>({0, 5, 7, C, K}, true, false, 4);
  test_shape<T>({1, 0, 7, C, K}, true, false, 4);
  test_shape<T>({1, 4, 3, 0, K}, true, false, 4);
}

}  // namespace
}  // namespace xaifast

int main() {
  xaifast::test_type<float>();
  xaifast::test_type<double>();
  return xaifast::report();
}
