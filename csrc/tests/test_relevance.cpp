// Native tests of the relevance kernels; how they are made: checks.h.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "relevance/add_split.h"
#include "relevance/add_split_element.h"
#include "relevance/backward_product.h"
#include "relevance/kernels_cuda.h"
#include "relevance/multiply_parts.h"
#include "relevance/multiply_parts_element.h"
#include "relevance/pool_redistribute.h"
#include "relevance/pool_redistribute_element.h"
#include "relevance/stabilized_divide.h"
#include "relevance/stabilized_divide_element.h"
#include "tests/checks.h"

namespace xaifast {
namespace {

double naive_quotient(double R, double z, double eps) {
  const double d = z >= 0 ? z + eps : z - eps;
  if (std::isinf(d)) return R == 0 ? 0 : std::nan("");
  return d == 0 ? 0 : R / d;
}

// ---- number types and grids -------------------------------------------------------------------

void test_bfloat16() {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    const float x = std::bit_cast<float>(bits << 16);
    const BFloat16 back(x);
    check(std::isnan(x) ? std::isnan(static_cast<float>(back)) : back.bits == bits,
          "bfloat16 round trip of " + std::to_string(bits));
  }
  check(BFloat16(1.0f + 0x1p-8f).bits == BFloat16(1.0f).bits, "bfloat16 tie goes to even, down");
  check(static_cast<float>(BFloat16(1.0f + 0x1.8p-7f)) == 1.0f + 0x1p-6f,
        "bfloat16 tie goes to even, up");
  check(std::isinf(static_cast<float>(BFloat16(std::numeric_limits<float>::max()))),
        "bfloat16 overflow");
}

// Against the compiler's own type, whose conversions are the processor's.
void test_float16() {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    Float16 x;
    x.bits = static_cast<std::uint16_t>(bits);
    const auto exact = static_cast<float>(std::bit_cast<_Float16>(x.bits));
    const auto what = "float16 of " + std::to_string(bits);
    check(std::isnan(exact) ? std::isnan(static_cast<float>(x)) : static_cast<float>(x) == exact,
          what);
    if (std::isnan(exact)) continue;
    for (const int step : {-0x1001, -0x1000, -0xfff, -1, 0, 1, 0xfff, 0x1000, 0x1001}) {
      const auto near = std::bit_cast<float>(std::bit_cast<std::uint32_t>(exact) +
                                             static_cast<std::uint32_t>(step));
      const auto want = std::bit_cast<std::uint16_t>(static_cast<_Float16>(near));
      check(std::isnan(near) || Float16(near).bits == want, what + " and a little");
    }
  }
  check(std::isnan(static_cast<float>(Float16(std::nanf("")))), "float16 NaN");
  check(Float16(1e30f).bits == 0x7c00 && Float16(-1e-30f).bits == 0x8000, "float16 overflow");
}

void test_grid() {
  for (const int64_t packs :
       {int64_t{0}, int64_t{1}, int64_t{255}, int64_t{1} << 20, int64_t{1} << 50}) {
    for (const int64_t targets : {int64_t{1}, int64_t{3}, int64_t{1} << 40}) {
      const Grid grid = grid_for(packs, targets);
      const auto what = "grid_for " + std::to_string(packs) + " " + std::to_string(targets);
      check(grid.blocks >= 1 && grid.blocks <= 0x7fffffff, what + ": blocks");
      check(grid.rows >= 1 && grid.rows <= 65535 && grid.rows <= targets, what + ": rows");
    }
  }
  check(grid_for(int64_t{1} << 30, 1000).rows == 1, "grid_for: many positions share targets");
  check(grid_for(10, 1000).rows == 1000, "grid_for: few positions spread targets");
}

// ---- stabilized_divide ------------------------------------------------------------------------

template <class T>
Doubles naive_divide(const std::vector<T>& R, const std::vector<T>& z, const T* b, DivideShape p,
                     double eps) {
  Doubles s;
  for (int64_t t = 0; t < p.targets; ++t) {
    for (int64_t i = 0; i < p.rows; ++i) {
      for (int64_t j = 0; j < p.length; ++j) {
        const int64_t at = i * p.length + j;
        const double bias = b == nullptr ? 0 : value(b[p.channels_last ? j : i % p.channels]);
        s.push_back(naive_quotient(value(R[s.size()]), value(z[at]) + bias, eps));
      }
    }
  }
  return s;
}

template <class T>
void test_divide_shape(DivideShape p, bool with_bias, double eps) {
  const int64_t n = p.rows * p.length;
  const auto what = label<T>("stabilized_divide",
                             {p.targets, p.rows, p.length, p.channels, p.channels_last, with_bias});
  const auto R = numbers<T>(p.targets * n, 1);
  auto z = numbers<T>(n, 2);
  for (std::size_t i = 3; i < z.size(); i += 11) z[i] = T(i % 2 == 0 ? INFINITY : -INFINITY);
  const auto biases = numbers<T>(p.channels, 3);
  const T* b = with_bias ? biases.data() : nullptr;
  const Doubles want = naive_divide(R, z, b, p, eps);
  auto s = poison<T>(p.targets * n);
  const int64_t middle = p.rows / 3;  // in two parts, as by two threads
  stabilized_divide(R.data(), z.data(), b, s.data(), p, eps, 0, middle);
  stabilized_divide(R.data(), z.data(), b, s.data(), p, eps, middle, p.rows);
  expect(what, s, want);
  const auto e = static_cast<Compute<T>>(eps);
  for (const Play grid : kPlays) {
    s = poison<T>(p.targets * n);
    play_packs<T>(DivideElement<T>{R.data(), z.data(), b, s.data(), p, e}, grid);
    expect(what + " element", s, want);
    s = R;
    play_packs<T>(DivideElement<T>{s.data(), z.data(), b, s.data(), p, e}, grid);
    expect(what + " element over R", s, want);
  }
  if constexpr (kEmulated) {
    s = poison<T>(p.targets * n);
    on_device(what, {reads(R), reads(z), reads(biases), writes(s)}, [&] {
      return stabilized_divide_cuda<T>(R.data(), z.data(), b, s.data(), p, eps, nullptr);
    });
    expect(what + " on the device", s, want);
    s = R;
    on_device(what, {updates(s), reads(z), reads(biases)}, [&] {
      return stabilized_divide_cuda<T>(s.data(), z.data(), b, s.data(), p, eps, nullptr);
    });
    expect(what + " on the device over R", s, want);
  }
  s = R;
  stabilized_divide(s.data(), z.data(), b, s.data(), p, eps, 0, p.rows);
  expect(what + " over R", s, want);
  if (p.targets != 1) return;
  s = z;
  stabilized_divide(R.data(), s.data(), b, s.data(), p, eps, 0, p.rows);
  expect(what + " over z", s, want);
}

template <class T>
void test_divide() {
  for (const double eps : {0.0, 0.125}) {
    for (const int64_t targets : {0, 1, 3}) {
      for (const int64_t rows : {0, 1, 5, 12}) {
        for (const int64_t length : {0, 1, 7, 16, 33}) {
          test_divide_shape<T>({targets, rows * length, 1, 1, false}, false, eps);
          test_divide_shape<T>({targets, rows, length, 3, false}, true, eps);
          test_divide_shape<T>({targets, rows, length, length, true}, true, eps);
        }
      }
    }
  }
  const std::vector<T> R = numbers<T>(20, 1), z = numbers<T>(20, 2);
  auto s = poison<T>(17);  // pointers that no pack may start at
  const DivideShape p{1, 17, 1, 1, false};
  const DivideElement<T> element{R.data() + 1, z.data() + 1, nullptr, s.data(), p, 0};
  check(!element.packs(), label<T>("stabilized_divide", {}) + ": packs of unaligned pointers");
  if constexpr (kEmulated) {
    const auto what = label<T>("stabilized_divide", {}) + " of unaligned pointers";
    on_device(what, {reads(R), reads(z), writes(s)}, [&] {
      return stabilized_divide_cuda<T>(R.data() + 1, z.data() + 1, nullptr, s.data(), p, 0,
                                       nullptr);
    });
    expect(what, s,
           naive_divide<T>({R.begin() + 1, R.end()}, {z.begin() + 1, z.end()}, nullptr, p, 0));
  }
  auto packs = poison<T>(16);
  const DivideShape last{1, 2, 8, 8, true};  // a bias that no pack may start at
  for (const int64_t shift : {0, 1}) {
    const T* b = R.data() + shift;
    const DivideElement<T> biased{z.data(), z.data(), b, packs.data(), last, 0};
    check(biased.packs() == (shift == 0), label<T>("stabilized_divide", {shift}) + ": bias packs");
    play_packs<T>(biased, kPlays[0]);
    const Doubles want = naive_divide<T>(z, z, b, last, 0);
    expect(label<T>("stabilized_divide", {shift}) + " biased", packs, want);
    if constexpr (kEmulated) {
      const auto what = label<T>("stabilized_divide", {shift}) + " biased, on the device";
      on_device(what, {reads(z), reads(R), writes(packs)}, [&] {
        return stabilized_divide_cuda<T>(z.data(), z.data(), b, packs.data(), last, 0, nullptr);
      });
      expect(what, packs, want);
    }
  }
}

// ---- multiply_parts and split_signs -----------------------------------------------------------

template <class T>
void test_multiply_shape(PartsShape p) {
  const int64_t n = p.outer * p.inner;
  const auto what = label<T>("multiply_parts", {p.targets, p.outer, p.parts, p.inner});
  const auto u = numbers<T>(n * p.parts, 1);
  const auto c = numbers<T>(p.targets * n * p.parts, 2);
  Doubles want(static_cast<std::size_t>(p.targets * n), 0.0);
  for (int64_t i = 0; i < p.targets * n; ++i) {
    const int64_t row = i / p.inner * p.parts * p.inner + i % p.inner;
    for (int64_t k = 0; k < p.parts; ++k) {
      const int64_t at = row + k * p.inner;
      want[i] += value(u[at % (n * p.parts)]) * value(c[at]);
    }
  }
  auto R = poison<T>(p.targets * n);
  const int64_t rows = p.targets * p.outer;
  multiply_parts(u.data(), c.data(), R.data(), p, 0, rows / 2);
  multiply_parts(u.data(), c.data(), R.data(), p, rows / 2, rows);
  expect(what, R, want);
  for (const Play grid : kPlays) {
    R = poison<T>(p.targets * n);
    play_packs<T>(MultiplyElement<T>{u.data(), c.data(), R.data(), p}, grid);
    expect(what + " element", R, want);
  }
  if constexpr (kEmulated) {
    R = poison<T>(p.targets * n);
    on_device(what, {reads(u), reads(c), writes(R)},
              [&] { return multiply_parts_cuda<T>(u.data(), c.data(), R.data(), p, nullptr); });
    expect(what + " on the device", R, want);
  }
  if (p.parts != 1) return;
  R = c;
  multiply_parts(u.data(), R.data(), R.data(), p, 0, rows);
  expect(what + " over c", R, want);
  R = c;
  play_packs<T>(MultiplyElement<T>{u.data(), R.data(), R.data(), p}, kPlays[1]);
  expect(what + " element over c", R, want);
}

template <class T>
void test_split_shape(int64_t outer, int64_t inner) {
  const auto what = label<T>("split_signs", {outer, inner});
  auto a = numbers<T>(outer * inner, 1);
  if (!a.empty()) a[a.size() / 2] = static_cast<T>(std::nanf(""));
  Doubles want(2 * a.size());
  for (int64_t i = 0; i < outer * inner; ++i) {
    const int64_t at = i / inner * 2 * inner + i % inner;
    const double x = value(a[i]);
    want[at] = x < 0 ? 0 : x;  // a NaN is in both
    want[at + inner] = x > 0 ? 0 : x;
  }
  auto u = poison<T>(2 * outer * inner);
  split_signs(a.data(), u.data(), inner, 0, outer / 2);
  split_signs(a.data(), u.data(), inner, outer / 2, outer);
  expect(what, u, want, 0);
  for (const Play grid : kPlays) {
    u = poison<T>(2 * outer * inner);
    play_packs<T>(SplitElement<T>{a.data(), u.data(), outer, inner}, grid);
    expect(what + " element", u, want, 0);
  }
  if constexpr (kEmulated) {
    u = poison<T>(2 * outer * inner);
    on_device(what, {reads(a), writes(u)},
              [&] { return split_signs_cuda<T>(a.data(), u.data(), outer, inner, nullptr); });
    expect(what + " on the device", u, want, 0);
  }
}

template <class T>
void test_product() {
  for (const int64_t outer : {0, 1, 5}) {
    for (const int64_t inner : {0, 1, 8, 9, 40}) {
      for (const int64_t targets : {0, 1, 3}) {
        for (const int64_t parts : {1, 2}) test_multiply_shape<T>({targets, outer, parts, inner});
      }
      test_split_shape<T>(outer, inner);
    }
  }
}

// ---- add_split --------------------------------------------------------------------------------

template <class T>
void expect_sum(const std::string& what, const std::vector<T>& x, const std::vector<T>& y,
                const std::vector<T>& R, const std::vector<T>& Rx, const std::vector<T>& Ry,
                SumShape p) {
  Doubles want_x, want_y;
  for (int64_t i = 0; i < p.targets * p.n; ++i) {
    const double xi = value(x[i % p.n]), yi = p.beta * value(y[i % p.n]);
    const double s = naive_quotient(value(R[i]), xi + yi, p.eps);
    want_x.push_back(xi * s);
    want_y.push_back(yi * s);
  }
  expect(what + " Rx", Rx, want_x);
  expect(what + " Ry", Ry, want_y);
}

template <class T>
AddSplitElement<T> sum_element(const std::vector<T>& x, const std::vector<T>& y, const T* R, T* Rx,
                               T* Ry, SumShape p) {
  using C = Compute<T>;
  return {
      x.data(), y.data(), R, Rx, Ry, p.targets, p.n, static_cast<C>(p.beta), static_cast<C>(p.eps)};
}

template <class T>
void test_sum_shape(SumShape p) {
  const auto what = label<T>("add_split", {p.targets, p.n}) + " beta " + std::to_string(p.beta);
  const auto x = numbers<T>(p.n, 1), y = numbers<T>(p.n, 2);
  const auto R = numbers<T>(p.targets * p.n, 3);
  auto Rx = poison<T>(p.targets * p.n), Ry = Rx;
  add_split(x.data(), y.data(), R.data(), Rx.data(), Ry.data(), p, 0, p.n / 3);
  add_split(x.data(), y.data(), R.data(), Rx.data(), Ry.data(), p, p.n / 3, p.n);
  expect_sum(what, x, y, R, Rx, Ry, p);
  Rx = R;
  add_split(x.data(), y.data(), Rx.data(), Rx.data(), Ry.data(), p, 0, p.n);
  expect_sum(what + " over R", x, y, R, Rx, Ry, p);
  for (const Play grid : kPlays) {
    Rx = Ry = poison<T>(p.targets * p.n);
    play_packs<T>(sum_element(x, y, R.data(), Rx.data(), Ry.data(), p), grid);
    expect_sum(what + " element", x, y, R, Rx, Ry, p);
    Ry = R;
    play_packs<T>(sum_element(x, y, Ry.data(), Rx.data(), Ry.data(), p), grid);
    expect_sum(what + " element over R", x, y, R, Rx, Ry, p);
  }
  if constexpr (kEmulated) {
    Rx = Ry = poison<T>(p.targets * p.n);
    on_device(what, {reads(x), reads(y), reads(R), writes(Rx), writes(Ry)}, [&] {
      return add_split_cuda<T>(x.data(), y.data(), R.data(), Rx.data(), Ry.data(), p, nullptr);
    });
    expect_sum(what + " on the device", x, y, R, Rx, Ry, p);
    Ry = R;
    on_device(what, {reads(x), reads(y), writes(Rx), updates(Ry)}, [&] {
      return add_split_cuda<T>(x.data(), y.data(), Ry.data(), Rx.data(), Ry.data(), p, nullptr);
    });
    expect_sum(what + " on the device over R", x, y, R, Rx, Ry, p);
  }
}

// x + beta y is zero where the rounded summands cancel, not the rounding error of beta y.
template <class T>
void test_sum_cancels() {
  using C = Compute<T>;
  constexpr int64_t n = 64;
  const SumShape p{1, n, 0.1, 0.0};
  const auto R = numbers<T>(n, 3);
  auto x = poison<T>(n), y = numbers<T>(n, 2);
  for (int64_t i = 0; i < n; ++i) {
    const volatile C product = static_cast<C>(0.1) * static_cast<C>(y[i]);
    x[i] = static_cast<T>(-product);
    if (static_cast<C>(x[i]) != -product) x[i] = y[i] = static_cast<T>(0.0f);  // 16 bits round
  }
  auto Rx = poison<T>(n), Ry = Rx;
  add_split(x.data(), y.data(), R.data(), Rx.data(), Ry.data(), p, 0, n);
  expect(label<T>("add_split cancels", {}), Rx, Doubles(n, 0.0), 0);
  play<1>(sum_element(x, y, R.data(), Rx.data(), Ry.data(), p), kPlays[0]);
  expect(label<T>("add_split cancels, element", {}), Ry, Doubles(n, 0.0), 0);
}

template <class T>
void test_sums() {
  for (const int64_t n : {0, 1, 8, 13, 64}) {
    for (const int64_t targets : {0, 1, 3}) {
      for (const double beta : {1.0, -1.0, 0.5}) {
        test_sum_shape<T>({targets, n, beta, 0.0});
        test_sum_shape<T>({targets, n, beta, 0.25});
      }
    }
  }
  test_sum_cancels<T>();
}

// ---- pool_redistribute ------------------------------------------------------------------------

// Positions in `a` of the inputs of window o of (outer, c), in row-major order.
std::vector<int64_t> naive_window(const PoolShape& p, int64_t outer, int64_t c, const int64_t* o) {
  std::vector<int64_t> found;
  for (int64_t j = 0; j < volume(p.kernel); ++j) {
    const int64_t ks[3] = {j / (p.kernel[1] * p.kernel[2]), j / p.kernel[2] % p.kernel[1],
                           j % p.kernel[2]};
    int64_t at = outer;
    bool inside = true;
    for (int d = 0; d < 3; ++d) {
      const int64_t i = o[d] * p.stride[d] - p.padding[d] + ks[d] * p.dilation[d];
      inside = inside && i >= 0 && i < p.in[d];
      at = at * p.in[d] + i;
    }
    if (inside) found.push_back(at * p.inner + c);
  }
  return found;
}

template <class T>
int64_t naive_winner(const std::vector<T>& a, const std::vector<int64_t>& window) {
  int64_t best = window[0];
  for (const auto i : window) {
    if (std::isnan(value(a[i]))) return i;
    if (value(a[i]) > value(a[best])) best = i;
  }
  return best;
}

template <class T>
Doubles naive_pool(const std::vector<T>& a, const std::vector<T>& R, const PoolShape& p,
                   PoolRule rule, double eps) {
  const int64_t inputs = p.outer * volume(p.in) * p.inner;
  Doubles r(static_cast<std::size_t>(p.targets * inputs), 0.0);
  for (int64_t k = 0; k < static_cast<int64_t>(R.size()); ++k) {
    const int64_t c = k % p.inner, pixel = k / p.inner;
    const int64_t o[3] = {pixel / (p.out[1] * p.out[2]) % p.out[0], pixel / p.out[2] % p.out[1],
                          pixel % p.out[2]};
    const int64_t outer = pixel / volume(p.out) % p.outer, t = pixel / volume(p.out) / p.outer;
    const auto window = naive_window(p, outer, c, o);
    if (window.empty()) continue;
    double z = 0;
    for (const auto i : window) z += value(a[i]);
    if (rule == PoolRule::kWinnerTakeAll) {
      r[t * inputs + naive_winner(a, window)] += value(R[k]);
      continue;
    }
    for (const auto i : window) {
      r[t * inputs + i] += value(a[i]) * naive_quotient(value(R[k]), z, eps);
    }
  }
  return r;
}

template <class T, PoolRule kRule, class Index>
void play_pool(const std::string& what, const std::vector<T>& a, const std::vector<T>& R,
               const PoolShape& p, double eps, const Doubles& want) {
  for (const Play grid : kPlays) {
    auto r = poison<T>(static_cast<int64_t>(want.size()));
    const PoolElement<T, kRule, Index> element{a.data(), R.data(), r.data(), p,
                                               static_cast<Compute<T>>(eps)};
    play<1>(element, grid);
    expect(what, r, want);
  }
}

template <class T, PoolRule kRule>
void test_pool_rule(const PoolShape& p, bool with_nan) {
  const bool all = kRule == PoolRule::kWinnerTakeAll;
  auto what = label<T>(all ? "pool winner" : "pool proportional", {p.targets, p.outer, p.inner});
  for (int d = 0; d < 3; ++d) {
    what += " | " + std::to_string(p.in[d]) + " " + std::to_string(p.out[d]) + " k" +
            std::to_string(p.kernel[d]) + " s" + std::to_string(p.stride[d]) + " p" +
            std::to_string(p.padding[d]) + " d" + std::to_string(p.dilation[d]);
  }
  const double eps = 0.25;
  auto a = numbers<T>(p.outer * volume(p.in) * p.inner, 1);
  for (std::size_t i = 0; with_nan && i < a.size(); i += 5) a[i] = static_cast<T>(std::nanf(""));
  const auto R = numbers<T>(p.targets * p.outer * volume(p.out) * p.inner, 2);
  const Doubles want = naive_pool(a, R, p, kRule, eps);
  auto r = poison<T>(static_cast<int64_t>(want.size()));
  const int64_t block = pool_block(p, 3);
  const int64_t tasks = pool_tasks(p, block);
  pool_redistribute(a.data(), R.data(), r.data(), p, kRule, eps, block, 0, tasks / 2);
  pool_redistribute(a.data(), R.data(), r.data(), p, kRule, eps, block, tasks / 2, tasks);
  // The CPU adds the windows up in T, so its error grows with their number.
  expect(what, r, want, all ? 0 : 9 * tolerance<T>());
  check(fits_32_bits(p), what + ": fits_32_bits");
  play_pool<T, kRule, std::int32_t>(what + " element, 32 bits", a, R, p, eps, want);
  play_pool<T, kRule, std::int64_t>(what + " element, 64 bits", a, R, p, eps, want);
  if constexpr (kEmulated) {
    r = poison<T>(static_cast<int64_t>(want.size()));
    on_device(what, {reads(a), reads(R), writes(r)}, [&] {
      return pool_redistribute_cuda<T>(a.data(), R.data(), r.data(), p, kRule, eps, nullptr);
    });
    expect(what + " on the device", r, want);
  }
}

// targets, outer, inner, in, out, kernel, stride, padding, dilation.
const PoolShape kPools[] = {
    {1, 2, 1, {1, 6, 6}, {1, 3, 3}, {1, 2, 2}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}},   // VGG
    {1, 3, 1, {1, 7, 5}, {1, 4, 3}, {1, 3, 3}, {1, 2, 2}, {0, 1, 1}, {1, 1, 1}},   // ResNet
    {3, 1, 1, {1, 5, 9}, {1, 5, 9}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},   // Inception
    {5, 2, 3, {1, 7, 5}, {1, 3, 2}, {1, 3, 2}, {1, 2, 3}, {0, 1, 0}, {1, 1, 2}},   // dilated
    {2, 1, 67, {1, 4, 4}, {1, 3, 3}, {1, 2, 2}, {1, 2, 2}, {0, 1, 1}, {1, 1, 1}},  // channels last
    {1, 2, 1, {1, 1, 11}, {1, 1, 4}, {1, 1, 4}, {1, 1, 3}, {0, 0, 2}, {1, 1, 2}},  // 1-D
    {1, 2, 1, {1, 1, 11}, {1, 1, 5}, {1, 1, 3}, {1, 1, 2}, {0, 0, 1}, {1, 1, 2}},  // odd border
    {2, 1, 2, {3, 4, 5}, {2, 2, 3}, {2, 3, 2}, {2, 1, 2}, {0, 0, 1}, {1, 1, 1}},   // 3-D
    {1, 1, 1, {5, 5, 5}, {3, 3, 3}, {3, 3, 3}, {2, 2, 2}, {1, 1, 1}, {1, 1, 1}},   // 3-D
    {1, 1, 2, {1, 3, 3}, {1, 3, 3}, {1, 2, 2}, {1, 3, 2}, {0, 0, 1}, {1, 1, 1}},   // cut to nothing
    {1, 1, 1, {1, 6, 6}, {1, 2, 2}, {1, 2, 2}, {1, 4, 4}, {0, 0, 0}, {1, 1, 1}},   // gaps
    {1, 1, 1, {1, 3, 3}, {1, 1, 1}, {1, 9, 9}, {1, 1, 1}, {0, 3, 3}, {1, 1, 1}},   // global
    {0, 2, 3, {1, 4, 4}, {1, 2, 2}, {1, 2, 2}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}},   // no target
    {2, 0, 3, {1, 4, 4}, {1, 2, 2}, {1, 2, 2}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}},   // no batch
    {2, 2, 0, {1, 4, 4}, {1, 2, 2}, {1, 2, 2}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}},   // no channel
    {2, 2, 3, {1, 4, 4}, {1, 0, 2}, {1, 5, 2}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}},   // no window
};

// More than 2^31 inputs, of which some blocks are run: windows of 2 x 2 that do not overlap.
template <class T, PoolRule kRule>
void test_vast_pool() {
  if constexpr (kEmulated) {
    PoolShape p = kPools[0];
    p.outer = (int64_t{1} << 26) + 3;
    const double eps = 0.25;
    const auto number = [](int64_t i) {
      return static_cast<T>(static_cast<float>(i * 7 % 17 - 5 + i / 1000003 % 3) / 4);
    };
    Vast<T> a(p.outer * 36), R(p.outer * 9), r(p.outer * 36);
    const auto what = label<T>("pool", {p.outer, kRule == PoolRule::kWinnerTakeAll});
    check(!fits_32_bits(p), what + ": fits_32_bits");
    const auto good = [&](int64_t i, T got) {
      const int64_t outer = i / 36, y = i / 6 % 6, x = i % 6, o[3] = {0, y / 2, x / 2};
      const double Rk = value(number(outer * 9 + o[1] * 3 + o[2]));
      double z = 0;
      int64_t best = -1;
      for (const auto j : naive_window(p, outer, 0, o)) {
        const double aj = value(number(j));
        z += aj;
        if (best < 0 || aj > value(number(best))) best = j;
      }
      const double want = kRule == PoolRule::kWinnerTakeAll
                              ? (i == best ? Rk : 0)
                              : value(number(i)) * naive_quotient(Rk, z, eps);
      return near(value(got), want, 2 * tolerance<T>());
    };
    on_some_blocks(what, {a.reads(number), R.reads(number), r.writes(what, good)}, [&] {
      return pool_redistribute_cuda<T>(a.data(), R.data(), r.data(), p, kRule, eps, nullptr);
    });
    check(r.seen() > 0, what + ": nothing beyond 2^31");
  }
}

template <class T>
void test_pooling() {
  for (const auto& p : kPools) {
    test_pool_rule<T, PoolRule::kWinnerTakeAll>(p, false);
    test_pool_rule<T, PoolRule::kWinnerTakeAll>(p, true);
    test_pool_rule<T, PoolRule::kProportional>(p, false);
    test_pool_rule<T, PoolRule::kProportional>(p, true);
  }
  test_vast_pool<T, PoolRule::kWinnerTakeAll>();
  test_vast_pool<T, PoolRule::kProportional>();
}

void test_fits_32_bits() {
  PoolShape p = kPools[0];
  p.outer = int64_t{1} << 27;  // x 36 inputs
  check(!fits_32_bits(p), "fits_32_bits: many inputs");
  p = kPools[0];
  p.kernel[2] = int64_t{1} << 31;
  check(!fits_32_bits(p), "fits_32_bits: long kernel");
}

// ---- rows of a dense layer --------------------------------------------------------------------

template <class T>
void test_rows_shape(RowsShape p) {
  const auto what = label<T>("multiply_rows", {p.m, p.K, p.J});
  auto s = numbers<T>(p.m * p.K, 1);
  const auto w = numbers<T>(p.K * p.J, 2);
  for (std::size_t i = 0; i < s.size(); i += 2) s[i] = 0;
  std::vector<int64_t> rows(static_cast<std::size_t>(p.K), -1), want_rows;
  Doubles want(static_cast<std::size_t>(p.m * p.J), 0.0);
  for (int64_t k = 0; k < p.K; ++k) {
    bool used = false;
    for (int64_t m = 0; m < p.m; ++m) {
      used = used || s[m * p.K + k] != 0;
      for (int64_t j = 0; j < p.J; ++j) want[m * p.J + j] += value(s[m * p.K + k] * w[k * p.J + j]);
    }
    if (used) want_rows.push_back(k);
  }
  const int64_t count = nonzero_rows(s.data(), p, rows.data());
  check(count == static_cast<int64_t>(want_rows.size()) &&
            std::equal(want_rows.begin(), want_rows.end(), rows.begin()),
        what + ": nonzero_rows");
  auto c = poison<T>(p.m * p.J);
  multiply_rows(s.data(), w.data(), c.data(), p, rows.data(), count, 0, p.J / 3);
  multiply_rows(s.data(), w.data(), c.data(), p, rows.data(), count, p.J / 3, p.J);
  expect(what, c, want);
}

template <class T>
void test_rows() {
  for (const int64_t m : {0, 1, 2, 16}) {
    for (const int64_t K : {0, 1, 4, 9, 30}) {
      for (const int64_t J : {0, 1, 7, 33}) test_rows_shape<T>({m, K, J});
    }
  }
}

template <class T>
void test_type() {
  test_divide<T>();
  test_product<T>();
  test_sums<T>();
  test_pooling<T>();
}

}  // namespace
}  // namespace xaifast

int main() {
  using namespace xaifast;
  test_bfloat16();
  test_float16();
  test_grid();
  test_type<float>();
  test_type<double>();
  test_type<BFloat16>();
  test_type<Float16>();
  test_fits_32_bits();
  test_rows<float>();
  test_rows<double>();
  return report();
}
