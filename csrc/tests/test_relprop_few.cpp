// relprop_few against Eq. 10.2 neuron by neuron in float64 (checks.h).
#include "relevance/relprop_few.h"
#include "tests/checks.h"

namespace xaifast {
namespace {

// A problem in plain layouts: u, R, z [n, channel, row, column], w [k, channel, row, column].
template <class T>
struct Problem {
  FewShape s;
  std::vector<T> u, R, w, b, z;

  explicit Problem(const FewShape& shape) : s(shape) {
    u = numbers<T>(s.N * s.channels() * s.H * s.W, 1);
    w = numbers<T>(s.K * s.inputs(), 2);
    b = numbers<T>(s.K, 3);
    z = numbers<T>(s.N * s.K * s.rows * s.columns, 4);
    R = numbers<T>(s.targets * s.N * s.K * s.rows * s.columns, 5);
  }

  // f(input, weight) for each connection of output (n, k, i, j).
  template <class F>
  void connections(int64_t n, int64_t k, int64_t i, int64_t j, const F& f) const {
    for (int64_t q = 0; q < s.inputs(); ++q) {
      const int64_t c = q / (s.kernel[0] * s.kernel[1]);
      const int64_t y = i * s.stride[0] - s.padding[0] + q / s.kernel[1] % s.kernel[0];
      const int64_t x = j * s.stride[1] - s.padding[1] + q % s.kernel[1];
      if (y < 0 || y >= s.H || x < 0 || x >= s.W) continue;
      f(((n * s.channels() + c) * s.H + y) * s.W + x, k * s.inputs() + q);
    }
  }

  Doubles wanted(double eps, bool z_is_given) const {
    const int64_t places = s.H * s.W;
    Doubles result(static_cast<std::size_t>(s.targets * s.N * s.C * places));
    for (int64_t o = 0; o < s.N * s.K * s.rows * s.columns; ++o) {
      const int64_t j = o % s.columns, i = o / s.columns % s.rows;
      const int64_t k = o / (s.columns * s.rows) % s.K, n = o / (s.columns * s.rows * s.K);
      double d = z_is_given ? value(z[o]) : value(b[k]);
      if (!z_is_given)
        connections(n, k, i, j, [&](auto a, auto q) { d += value(u[a]) * value(w[q]); });
      d += d >= 0 ? eps : -eps;
      for (int64_t t = 0; t < s.targets && d != 0; ++t) {
        const double part = value(R[t * s.N * s.K * s.rows * s.columns + o]) / d;
        connections(n, k, i, j, [&](auto a, auto q) {
          const int64_t c = a / places % s.channels() % s.C;
          const int64_t at = ((t * s.N + a / (places * s.channels())) * s.C + c) * places;
          result[at + a % places] += value(u[a]) * value(w[q]) * part;
        });
      }
    }
    return result;
  }

  // [panel, row, P] of m(row, column), zeros around.
  template <class F>
  std::vector<T> panels(int64_t rows, int64_t columns, const F& m) const {
    constexpr int64_t P = 2 * kLanes<T>;
    std::vector<T> made(static_cast<std::size_t>((columns + P - 1) / P * rows * P), T(0));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) made[(c / P * rows + r) * P + c % P] = m(r, c);
    }
    return made;
  }

  // w of output k and input q in the order of the kernel: row, column, channel.
  T weight(int64_t k, int64_t q) const {
    const int64_t places = s.kernel[0] * s.kernel[1];
    return k < s.K ? w[k * s.inputs() + q % s.channels() * places + q / s.channels()] : T(0);
  }
};

template <class T>
Map<T> plain(T* x, int64_t N, int64_t C, int64_t H, int64_t W) {
  return {x, N * C * H * W, C * H * W, H * W, W, 1};
}

template <class T>
void test_shape(FewShape s, bool z_is_given, int64_t bands) {
  s.rows = (s.H + 2 * s.padding[0] - s.kernel[0]) / s.stride[0] + 1;
  s.columns = (s.W + 2 * s.padding[1] - s.kernel[1]) / s.stride[1] + 1;
  const Problem<T> p(s);
  constexpr int64_t P = 2 * kLanes<T>;
  const auto w = p.panels(s.inputs(), s.K, [&](auto q, auto k) { return p.weight(k, q); });
  const auto w_back =
      p.panels((s.K + P - 1) / P * P, s.inputs(), [&](auto k, auto q) { return p.weight(k, q); });
  // The same R with channels inside, which is read as it lies.
  std::vector<T> last(p.R.size());
  const int64_t places = s.rows * s.columns;
  for (int64_t i = 0; i < static_cast<int64_t>(last.size()); ++i) {
    last[i / (s.K * places) * s.K * places + i % places * s.K + i / places % s.K] = p.R[i];
  }
  for (const bool inside : {false, true}) {
    auto result = poison<T>(s.targets * s.N * s.C * s.H * s.W),
         scratch = poison<T>(few_scratch<T>(s));
    FewTensors<T> t{plain(p.u.data(), s.N, s.channels(), s.H, s.W),
                    plain(p.R.data(), s.N, s.K, s.rows, s.columns),
                    {},
                    plain(result.data(), s.N, s.C, s.H, s.W),
                    w.data(),
                    w_back.data(),
                    p.b.data()};
    const std::vector<T> none(static_cast<std::size_t>(s.K), T(0));
    if (z_is_given) t.z = plain(p.z.data(), s.N, s.K, s.rows, s.columns), t.b = none.data();
    if (inside) {
      t.R = {last.data(), s.N * s.K * places, s.K * places, 1, s.columns * s.K, s.K};
    }
    for (int64_t band = 0; band < bands; ++band) {
      const int64_t rows = s.N * s.H;
      relprop_few<T>(t, s, 0.25, scratch.data(), rows * band / bands, rows * (band + 1) / bands);
    }
    expect(label<T>("few", {s.targets, s.N, s.parts, s.C, s.H, s.W, s.K, s.kernel[0], s.stride[0]}),
           result, p.wanted(0.25, z_is_given), 100 * tolerance<T>());
  }
}

template <class T>
void test_type() {
  for (const int64_t bands : {1, 3, 40}) {
    for (const bool given : {false, true}) {
      test_shape<T>({1, 2, 2, 3, 7, 9, 5, 0, 0, {3, 3}, {1, 1}, {1, 1}}, given, bands);
      test_shape<T>({2, 1, 1, 3, 11, 10, 40, 0, 0, {7, 5}, {2, 2}, {3, 1}}, given, bands);
      test_shape<T>({17, 1, 1, 1, 5, 6, 3, 0, 0, {2, 2}, {1, 1}, {0, 0}}, given, bands);
      test_shape<T>({1, 2, 2, 4, 9, 8, 32, 0, 0, {2, 1}, {4, 3}, {1, 3}}, given, bands);
      test_shape<T>({1, 1, 1, 8, 2, 130, 33, 0, 0, {1, 3}, {1, 1}, {2, 1}}, given, bands);
    }
  }
  test_shape<T>({1, 0, 1, 3, 4, 4, 5, 0, 0, {3, 3}, {1, 1}, {1, 1}}, false, 2);
  test_shape<T>({0, 1, 1, 3, 4, 4, 5, 0, 0, {3, 3}, {1, 1}, {1, 1}}, false, 2);
}

}  // namespace
}  // namespace xaifast

int main() {
  xaifast::test_type<float>();
  xaifast::test_type<double>();
  return xaifast::report();
}
