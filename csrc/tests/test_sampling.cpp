// Native tests of the sampling kernels; how they are made: checks.h.
#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "sampling/accumulate_rows.h"
#include "sampling/accumulate_rows_element.h"
#include "sampling/add_noise.h"
#include "sampling/add_noise_element.h"
#include "sampling/kernels_cuda.h"
#include "sampling/mask_segments.h"
#include "sampling/mask_segments_element.h"
#include "sampling/occlude_windows.h"
#include "sampling/occlude_windows_element.h"
#include "sampling/path_points.h"
#include "sampling/path_points_element.h"
#include "sampling/scatter_windows.h"
#include "sampling/scatter_windows_element.h"
#include "sampling/segment_sums.h"
#include "sampling/segment_sums_element.h"
#include "tests/checks.h"

namespace xaifast {
namespace {

using Indices = std::vector<int64_t>;

// Samples in no order, with repeats, and not all of them.
Indices some_samples(int64_t rows, int64_t samples) {
  Indices sample(static_cast<std::size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) sample[r] = r * r * 7 % samples;
  return sample;
}

// The batches that every op on rows is tested with: one sample, several, none, of any size.
std::vector<BatchShape> batches() {
  std::vector<BatchShape> all{{0, 0, 0, 5}, {0, 0, 1, 5}, {0, 3, 3, 5}};
  for (const int64_t rows : {1, 2, 9}) {
    for (const int64_t samples : {1, 3}) {
      for (const int64_t size : {0, 1, 8, 13, 64}) {
        all.push_back({rows, samples, samples, size});
        all.push_back({rows, samples, 1, size});
      }
    }
  }
  return all;
}

template <class T>
std::string batch_label(const char* name, const BatchShape& p) {
  return label<T>(name, {p.rows, p.samples, p.baselines, p.size});
}

// What the elements do with rows of samples that are not there.
const Indices kBadSamples = {0, -1, 1, int64_t{1} << 62, 2};

// ---- path_points ------------------------------------------------------------------------------

// In eighths, beyond both ends, and the ends themselves.
std::vector<double> alphas(int64_t rows) {
  std::vector<double> alpha(static_cast<std::size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) alpha[r] = static_cast<double>(r % 11 - 1) / 8.0;
  return alpha;
}

template <class T>
void test_path_shape(const BatchShape& p, bool relu) {
  const auto what = batch_label<T>("path_points", p) + (relu ? " relu" : "");
  const auto x = numbers<T>(p.samples * p.size, 1), b = numbers<T>(p.baselines * p.size, 2);
  const auto sample = some_samples(p.rows, p.samples);
  const auto alpha = alphas(p.rows);
  Doubles want;
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t e = 0; e < p.size; ++e) {
      const double be = value(b[p.baseline_at(sample[r]) + e]);
      const double y = be + alpha[r] * (value(x[p.at(sample[r]) + e]) - be);
      want.push_back(relu ? std::max(y, 0.0) : y);
    }
  }
  const int64_t n = p.rows * p.size;
  auto out = poison<T>(n);
  for (const auto& [begin, end] : {std::pair{int64_t{0}, n / 3}, std::pair{n / 3, n}}) {
    path_points(x.data(), b.data(), sample.data(), alpha.data(), out.data(), p, relu, begin, end);
  }
  expect(what, out, want);
  for (const Play grid : kPlays) {
    out = poison<T>(n);
    play_packs<T>(PathElement<T>{x.data(), b.data(), sample.data(), alpha.data(), out.data(), p,
                                 path_floor<Compute<T>>(relu)},
                  grid);
    expect(what + " element", out, want);
  }
  if constexpr (kEmulated) {
    out = poison<T>(n);
    on_device(what, {reads(x), reads(b), reads(sample), reads(alpha), writes(out)}, [&] {
      return path_points_cuda<T>(x.data(), b.data(), sample.data(), alpha.data(), out.data(), p,
                                 relu, nullptr);
    });
    expect(what + " on the device", out, want);
  }
}

template <class T>
void test_path() {
  for (const auto& p : batches()) {
    test_path_shape<T>(p, false);
    test_path_shape<T>(p, true);
  }
  // The ends of the path are exact, though x - x' is not.
  const std::vector<T> x{static_cast<T>(0.1f)}, b{static_cast<T>(300.0f)};
  const std::vector<double> alpha{1.0, 0.0};
  auto out = poison<T>(2);
  path_points(x.data(), b.data(), Indices{0, 0}.data(), alpha.data(), out.data(), {2, 1, 1, 1},
              false, 0, 2);
  expect(label<T>("path_points at its ends", {}), out, {value(x[0]), value(b[0])}, 0);
}

template <class T>
void test_path_without_samples() {
  const BatchShape p{5, 2, 2, 1};
  const std::vector<T> x = numbers<T>(2, 1), b = numbers<T>(2, 2);
  const std::vector<double> alpha(5, 0.0);
  for (const Play grid : kPlays) {
    auto out = numbers<T>(5, 3);
    play<1>(PathElement<T>{x.data(), b.data(), kBadSamples.data(), alpha.data(), out.data(), p,
                           path_floor<Compute<T>>(false)},
            grid);
    const double nan = std::nan("");
    expect(label<T>("path_points without a sample", {}), out,
           {value(b[0]), nan, value(b[1]), nan, nan});
  }
  if constexpr (kEmulated) {
    auto out = poison<T>(5);
    const auto what = label<T>("path_points without a sample", {});
    on_device(what, {reads(x), reads(b), reads(kBadSamples), reads(alpha), writes(out)}, [&] {
      return path_points_cuda<T>(x.data(), b.data(), kBadSamples.data(), alpha.data(), out.data(),
                                 p, false, nullptr);
    });
    const double nan = std::nan("");
    expect(what + " on the device", out, {value(b[0]), nan, value(b[1]), nan, nan});
  }
}

// ---- accumulate_rows --------------------------------------------------------------------------

template <class G, class C>
void test_accumulate_shape(const BatchShape& p) {
  const auto what = batch_label<G>("accumulate_rows", p) + " in " + type_name<C>();
  const auto g = numbers<G>(p.rows * p.size, 1);
  const auto start = numbers<C>(p.samples * p.size, 2);
  const auto sample = some_samples(p.rows, p.samples);
  const auto weight = alphas(p.rows);
  Doubles want;
  for (const C t : start) want.push_back(t);
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t e = 0; e < p.size; ++e) {
      want[p.at(sample[r]) + e] += weight[r] * value(g[r * p.size + e]);
    }
  }
  auto total = start;
  accumulate_rows(g.data(), sample.data(), weight.data(), total.data(), p, 0, p.size / 3);
  accumulate_rows(g.data(), sample.data(), weight.data(), total.data(), p, p.size / 3, p.size);
  expect(what, total, want);
  for (const Play grid : kPlays) {
    total = start;
    const AccumulateElement<G, C> element{g.data(), sample.data(), weight.data(), total.data(), p};
    play_packs<C>(element, {grid.threads, std::clamp<int64_t>(p.samples, 1, grid.rows)});
    expect(what + " element", total, want);
  }
  if constexpr (kEmulated) {
    total = start;
    on_device(what, {reads(g), reads(sample), reads(weight), updates(total)}, [&] {
      return accumulate_rows_cuda<G, C>(g.data(), sample.data(), weight.data(), total.data(), p,
                                        nullptr);
    });
    expect(what + " on the device", total, want);
  }
}

template <class G>
void test_accumulate() {
  for (const auto& p : batches()) {
    test_accumulate_shape<G, double>(p);
    if constexpr (!std::is_same_v<G, double>) test_accumulate_shape<G, float>(p);
  }
  const std::vector<G> g = numbers<G>(5, 1);
  const std::vector<double> weight(5, 1.0);
  Doubles total{1, 2};
  play<1>(
      AccumulateElement<G, double>{
          g.data(), kBadSamples.data(), weight.data(), total.data(), {5, 2, 1, 1}},
      kPlays[1]);
  expect(label<G>("accumulate_rows without a sample", {}), total,
         {1 + value(g[0]), 2 + value(g[2])});
  if constexpr (kEmulated) {
    total = {1, 2};
    on_device("accumulate_rows without a sample",
              {reads(g), reads(kBadSamples), reads(weight), updates(total)}, [&] {
                return accumulate_rows_cuda<G, double>(g.data(), kBadSamples.data(), weight.data(),
                                                       total.data(), {5, 2, 1, 1}, nullptr);
              });
    expect(label<G>("accumulate_rows without a sample, on the device", {}), total,
           {1 + value(g[0]), 2 + value(g[2])});
  }
}

// The order of the terms is that of the rows, on the CPU and in a grid, in one call or in two.
void test_accumulate_order() {
  constexpr int64_t rows = 40;
  const BatchShape p{rows, 1, 1, 4};
  std::vector<float> g(rows * 4);
  for (std::size_t i = 0; i < g.size(); ++i) g[i] = 1.0f / static_cast<float>(i + 1);
  const Indices sample(rows, 0);
  const std::vector<double> weight(rows, 0.3);
  std::vector<float> want(4, 0.5f), once = want, twice = want, element = want;
  for (int64_t i = 0; i < rows * 4; ++i) {
    const volatile float term = 0.3f * g[i];
    want[i % 4] += term;
  }
  accumulate_rows(g.data(), sample.data(), weight.data(), once.data(), p, 0, 4);
  BatchShape half = p;
  half.rows = rows / 2;
  accumulate_rows(g.data(), sample.data(), weight.data(), twice.data(), half, 0, 4);
  accumulate_rows(g.data() + rows * 2, sample.data(), weight.data(), twice.data(), half, 0, 4);
  play<4>(
      AccumulateElement<float, float>{g.data(), sample.data(), weight.data(), element.data(), p},
      kPlays[1]);
  check(once == want, "accumulate_rows: ascending order");
  check(twice == want, "accumulate_rows: two batches");
  check(element == want, "accumulate_rows: ascending order in a grid");
}

// ---- add_noise --------------------------------------------------------------------------------

// The known answers of Random123, the authors' own implementation.
template <class Lane>
void test_philox() {
  struct Known {
    std::uint32_t counter[4], key[2], want[4];
  };
  constexpr std::uint32_t kAll = 0xffffffff;
  const Known known[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{kAll, kAll, kAll, kAll}, {kAll, kAll}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const auto& [c, k, want] : known) {
    const auto x = philox(Philox<Lane>{c[0], c[1], c[2], c[3]}, k[0], k[1]);
    const Lane got[] = {x.c0, x.c1, x.c2, x.c3};
    for (int i = 0; i < 4; ++i) {
      check(static_cast<std::uint32_t>(got[i]) == want[i],
            "philox with " + std::to_string(sizeof(Lane)) + " bytes: word " + std::to_string(i));
    }
  }
}

// The tail behind |z| is the p that z was made of, to the relative error that 4e-7 |z| makes of it.
void test_standard_normal() {
  for (std::uint64_t word = 0; word < (std::uint64_t{1} << 31); word += 1 + word / 64) {
    const auto m = static_cast<std::uint32_t>(word);
    const float z = standard_normal(m);
    const double p = (static_cast<double>(static_cast<float>(m)) + 0.5) / 0x1p32;
    const double tail = std::erfc(static_cast<double>(z) / std::sqrt(2.0)) / 2;
    check(z >= 0 && std::abs(tail - p) <= (1e-7 + 4.5e-7 * z * z) * std::max(p, 1e-12),
          "standard_normal of " + std::to_string(m) + ": " + std::to_string(z));
    check(standard_normal(m | 0x80000000u) == -z, "standard_normal: the sign of its bit");
  }
  check(standard_normal(0) > 6.3f && standard_normal(0) < 6.4f, "standard_normal: the last number");
  check(standard_normal(0x7fffffffu) == 0, "standard_normal: the middle");
}

// The number of element e, one at a time.
float one_normal(const NoiseShape& p, int64_t n, int64_t draw, int64_t e) {
  const auto w = philox(
      Philox<std::uint32_t>{static_cast<std::uint32_t>(e / 4), static_cast<std::uint32_t>(draw),
                            static_cast<std::uint32_t>(n), 0},
      p.key0(), p.key1());
  const std::uint32_t words[] = {w.c0, w.c1, w.c2, w.c3};
  return standard_normal(words[e % 4]);
}

template <class T>
void play_noise(const NoiseElement<T, false>& element, const T* out, Play grid) {
  if (noise_packs(element.x, out, element.shape)) {
    play<1>(NoiseElement<T, true>{element.x, element.sample, element.draw, element.std, element.out,
                                  element.shape},
            grid);
  } else {
    play<1>(element, grid);
  }
}

template <class T>
void test_noise_shape(const BatchShape& batch, int64_t channels) {
  if (batch.size % channels != 0) return;
  using C = Compute<T>;
  const NoiseShape p{batch, channels, 0xfedcba9876543210u};
  const auto what = batch_label<T>("add_noise", batch) + " of " + std::to_string(channels);
  const auto x = numbers<T>(batch.samples * batch.size, 1);
  const auto sample = some_samples(batch.rows, batch.samples);
  Indices draw = some_samples(batch.rows, 5);
  if (!draw.empty()) draw.back() = kMaxDraws - 1;
  Doubles std{0.25, 0.5, 1.7, 0};
  Doubles want;
  for (int64_t r = 0; r < batch.rows; ++r) {
    for (int64_t i = 0; i < batch.size; ++i) {
      const int64_t e = i % channels * p.space() + i / channels;
      const volatile C noise =
          static_cast<C>(std[sample[r]]) * static_cast<C>(one_normal(p, sample[r], draw[r], e));
      const C xi = static_cast<C>(x[batch.at(sample[r]) + i]);
      want.push_back(value(static_cast<T>(xi + noise)));
    }
  }
  auto out = poison<T>(batch.rows * batch.size);
  const int64_t tasks = noise_tasks(p);
  for (const auto& [begin, end] : {std::pair{int64_t{0}, tasks / 3}, std::pair{tasks / 3, tasks}}) {
    add_noise(x.data(), sample.data(), draw.data(), std.data(), out.data(), p, begin, end);
  }
  expect(what, out, want, 0);
  for (const Play grid : kPlays) {
    out = poison<T>(batch.rows * batch.size);
    play_noise<T>({x.data(), sample.data(), draw.data(), std.data(), out.data(), p}, out.data(),
                  grid);
    expect(what + " element", out, want, 0);
  }
  if constexpr (kEmulated) {
    out = poison<T>(batch.rows * batch.size);
    on_device(what, {reads(x), reads(sample), reads(draw), reads(std), writes(out)}, [&] {
      return add_noise_cuda<T>(x.data(), sample.data(), draw.data(), std.data(), out.data(), p,
                               nullptr);
    });
    expect(what + " on the device", out, want, 0);
  }
}

template <class T>
void test_noise() {
  for (const int64_t channels : {1, 2, 3, 13, 64}) {
    for (const auto& p : batches()) test_noise_shape<T>(p, channels);
  }
  for (const int64_t channels : {1, 3, 100}) {  // several blocks, which end inside a group
    test_noise_shape<T>({2, 1, 1, 8700}, channels);
  }
  const NoiseShape p{{5, 2, 2, 1}, 1, 1};
  const auto x = numbers<T>(2, 1);
  const Indices draw{0, 0, kMaxDraws, 0, 0};
  const Doubles std{0, 0};
  auto out = numbers<T>(5, 2);
  const double nan = std::nan("");
  play<1>(
      NoiseElement<T, false>{x.data(), kBadSamples.data(), draw.data(), std.data(), out.data(), p},
      kPlays[1]);
  expect(label<T>("add_noise without a sample or draw", {}), out,
         {value(x[0]), nan, nan, nan, nan});
  if constexpr (kEmulated) {
    out = numbers<T>(5, 2);
    on_device("add_noise without a sample or draw",
              {reads(x), reads(kBadSamples), reads(draw), reads(std), writes(out)}, [&] {
                return add_noise_cuda<T>(x.data(), kBadSamples.data(), draw.data(), std.data(),
                                         out.data(), p, nullptr);
              });
    expect(label<T>("add_noise without a sample or draw, on the device", {}), out,
           {value(x[0]), nan, nan, nan, nan});
  }
}

// ---- windows ----------------------------------------------------------------------------------

struct WindowCase {
  Windows windows;
  int64_t size;
  int64_t K;
};

// From {size, window, stride} of each axis, in an order in which the last is counted fastest.
WindowCase window_case(std::initializer_list<std::array<int64_t, 3>> axes) {
  WindowCase c{{static_cast<int>(axes.size()), {}}, 1, 1};
  int d = c.windows.axes;
  for (auto a = std::rbegin(axes); a != std::rend(axes); ++a) {
    const auto [size, window, stride] = *a;
    c.windows.axis[--d] = {size, window, stride, window_positions(size, window, stride), c.K};
    c.size *= size;
    c.K *= c.windows.axis[d].positions;
  }
  return c;
}

std::vector<WindowCase> window_cases() {
  return {
      window_case({{1, 1, 1}}),                                              // a single number
      window_case({{13, 4, 3}}),                                             // a full last window
      window_case({{13, 5, 3}}),                                             // one that is cut off
      window_case({{13, 13, 2}}),                                            // one window
      window_case({{9, 2, 4}}),                                              // gaps
      window_case({{9, 1, 9}}),                                              // beyond the border
      window_case({{20, 7, 1}}),                                             // steps of one
      window_case({{3, 3, 1}, {6, 2, 2}, {7, 3, 2}}),                        // contiguous
      window_case({{6, 2, 2}, {21, 9, 6}}),                                  // channels last
      window_case({{4, 2, 1}, {5, 4, 3}, {5, 2, 3}}),                        // some channels
      window_case({{3, 2, 1}, {2, 1, 1}, {3, 2, 2}, {2, 2, 1}, {4, 3, 1}}),  // many axes
  };
}

std::string window_label(const char* name, const WindowCase& c) {
  std::string text = name;
  for (int d = 0; d < c.windows.axes; ++d) {
    const WindowAxis& a = c.windows.axis[d];
    text += " | " + std::to_string(a.size) + " w" + std::to_string(a.window) + " s" +
            std::to_string(a.stride);
  }
  return text;
}

bool covers(const Windows& w, int64_t k, int64_t e) {
  bool inside = true;
  for (int d = w.axes - 1; d >= 0; --d) {
    const WindowAxis& a = w.axis[d];
    const int64_t start = k / a.step % a.positions * a.stride;
    inside = inside && start <= e % a.size && e % a.size < start + a.window;
    e /= a.size;
  }
  return inside;
}

template <class Word>
void test_occlude_case(const WindowCase& c, int64_t samples, int64_t baselines, int64_t first) {
  const int64_t count = c.K - first;
  const OccludeShape p{{count * samples, samples, baselines, c.size}, first, c.windows};
  const auto what = window_label("occlude_windows", c) + " " + std::to_string(sizeof(Word)) +
                    " bytes, " + std::to_string(samples) + " " + std::to_string(baselines);
  std::vector<Word> x(samples * c.size), b(baselines * c.size), want(p.batch.rows * c.size);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<Word>(2 * i + 1);
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<Word>(2 * i + 2);
  for (int64_t i = 0; i < static_cast<int64_t>(want.size()); ++i) {
    const int64_t e = i % c.size, n = i / c.size % samples, k = first + i / c.size / samples;
    want[i] = covers(c.windows, k, e) ? b[p.batch.baseline_at(n) + e] : x[p.batch.at(n) + e];
  }
  std::vector<Word> out(want.size(), 0);
  const int64_t middle = p.batch.rows / 3;
  occlude_windows(x.data(), b.data(), out.data(), p, 0, middle);
  occlude_windows(x.data(), b.data(), out.data(), p, middle, p.batch.rows);
  check(out == want, what);
  if (samples == 0) return;  // the launcher launches nothing
  for (const Play grid : kPlays) {
    std::fill(out.begin(), out.end(), Word(0));
    play_packs<Word>(RepeatElement<Word>{x.data(), out.data(), samples * c.size, count}, grid);
    play<1>(CoverElement<Word>{b.data(), out.data(), p}, grid);
    check(out == want, what + " element");
  }
  if constexpr (kEmulated) {
    std::fill(out.begin(), out.end(), Word(0));
    on_device(what, {reads(x), reads(b), writes(out)}, [&] {
      return occlude_windows_cuda<Word>(x.data(), b.data(), out.data(), p, nullptr);
    });
    check(out == want, what + " on the device");
  }
}

// A sample without numbers has windows, but nothing is hidden and nothing scattered.
void test_windows_of_nothing() {
  const auto c = window_case({{3, 2, 1}, {1, 1, 1}});
  const OccludeShape p{{c.K, 1, 1, 0}, 0, c.windows};
  std::uint32_t none = 0;
  occlude_windows<std::uint32_t>(&none, &none, &none, p, 0, c.K);
  play<1>(CoverElement<std::uint32_t>{&none, &none, p}, kPlays[1]);
  check(none == 0 && CoverElement<std::uint32_t>{}.size() == 0, "occlude_windows of nothing");
  check(ScatterShape{3, 0, c.K, true, c.windows}.lines() == 0, "scatter_windows of nothing");
}

template <class Word>
void test_occlude() {
  auto cases = window_cases();
  WindowCase last = window_case({{4, 2, 2}, {5, 2, 3}});  // channels last: the first counts fastest
  last.windows.axis[0].step = 1;
  last.windows.axis[1].step = last.windows.axis[0].positions;
  cases.push_back(last);
  for (const auto& c : cases) {
    for (const int64_t samples : {0, 1, 3}) {
      for (const int64_t first : {int64_t{0}, c.K / 2, c.K}) {
        test_occlude_case<Word>(c, samples, samples, first);
        test_occlude_case<Word>(c, samples, 1, first);
      }
    }
  }
}

template <class T, int kAxes>
void play_scatter(const std::string& what, const std::vector<T>& scores, const ScatterShape& p,
                  const Doubles& want) {
  for (const Play grid : kPlays) {
    auto out = poison<T>(p.targets * p.size);
    ScatterElement<T, kAxes> element{scores.data(), out.data(), p.targets, p.size,
                                     p.K,           p.average,  {}};
    fixed_axes(p.windows, element.axis);
    play<1>(element, grid);
    expect(what, out, want);
  }
}

template <class T>
void test_scatter_case(const WindowCase& c, int64_t targets, bool average) {
  const ScatterShape p{targets, c.size, c.K, average, c.windows};
  const auto what = window_label("scatter_windows", c) + " " + label<T>("", {targets, average});
  const auto scores = numbers<T>(targets * c.K, 1);
  Doubles want(static_cast<std::size_t>(targets * c.size), 0.0);
  for (int64_t i = 0; i < targets * c.size; ++i) {
    int64_t windows = 0;
    for (int64_t k = 0; k < c.K; ++k) {
      if (!covers(c.windows, k, i % c.size)) continue;
      want[i] += value(scores[i / c.size * c.K + k]);
      ++windows;
    }
    if (average && windows > 0) want[i] /= static_cast<double>(windows);
  }
  for (const int64_t parts : {1, 2, 5}) {  // as by so many threads
    auto out = poison<T>(targets * c.size);
    for (int64_t i = 0; i < parts; ++i) {
      scatter_windows(scores.data(), out.data(), p, p.lines() * i / parts,
                      p.lines() * (i + 1) / parts);
    }
    expect(what, out, want);
  }
  if (c.windows.axes <= kFewAxes) play_scatter<T, kFewAxes>(what + " element", scores, p, want);
  play_scatter<T, kMaxAxes>(what + " element of many axes", scores, p, want);
  if constexpr (kEmulated) {
    auto out = poison<T>(targets * c.size);
    on_device(what, {reads(scores), writes(out)},
              [&] { return scatter_windows_cuda<T>(scores.data(), out.data(), p, nullptr); });
    expect(what + " on the device", out, want);
  }
}

template <class T>
void test_scatter() {
  for (const auto& c : window_cases()) {
    for (const int64_t targets : {0, 1, 3}) {
      test_scatter_case<T>(c, targets, false);
      test_scatter_case<T>(c, targets, true);
    }
  }
}

// Windows are added in the same order on every device.
void test_scatter_order() {
  const auto c = window_case({{5, 4, 1}, {6, 3, 1}, {7, 5, 2}});
  const ScatterShape p{1, c.size, c.K, true, c.windows};
  std::vector<float> scores(c.K);
  for (int64_t k = 0; k < c.K; ++k) scores[k] = 1.0f / static_cast<float>(k + 3);
  auto out = poison<float>(c.size), element = out;
  scatter_windows(scores.data(), out.data(), p, 0, p.lines());
  ScatterElement<float, kFewAxes> e{scores.data(), element.data(), 1, p.size, p.K, true, {}};
  fixed_axes(p.windows, e.axis);
  play<1>(e, kPlays[0]);
  check(out == element, "scatter_windows: one order of the windows");
}

// ---- segments ---------------------------------------------------------------------------------

struct LabelCase {
  LabelMap map;
  int64_t labels;  // of a sample
  Indices place;   // the label of each position, one position after the other
  std::string text;
};

// From repeat, {size, whether it has labels of its own} of each axis, run and width.
LabelCase label_case(int64_t repeat, std::vector<std::pair<int64_t, bool>> axes, int64_t run,
                     int64_t width) {
  LabelCase c{{repeat, 1, run, width, static_cast<int>(axes.size()), {}}, run, {}, "labels"};
  for (int d = c.map.axes - 1; d >= 0; --d) {
    const auto [size, own] = axes[d];
    c.map.axis[d] = {size, own ? c.labels : 0};
    c.map.groups *= size;
    if (own) c.labels *= size;
  }
  Indices groups{0};  // the first label of each
  for (int d = 0; d < c.map.axes; ++d) {
    Indices longer;
    for (const auto g : groups) {
      for (int64_t i = 0; i < axes[d].first; ++i) longer.push_back(g + i * c.map.axis[d].step);
    }
    groups = longer;
  }
  for (int64_t r = 0; r < repeat; ++r) {
    for (const auto g : groups) {
      for (int64_t k = 0; k < run; ++k) c.place.insert(c.place.end(), width, g + k);
    }
  }
  for (const auto n : {repeat, c.map.groups, run, width})
    c.text.append(" ").append(std::to_string(n));
  return c;
}

std::vector<LabelCase> label_cases() {
  return {
      label_case(1, {}, 1, 1),                       // a single number
      label_case(1, {}, 64, 1),                      // a label each
      label_case(3, {}, 35, 1),                      // [1, H, W] of [C, H, W]
      label_case(1, {}, 35, 3),                      // the same, channels last
      label_case(1, {}, 1, 40),                      // one for all
      label_case(1, {}, 3, 100),                     // [C, 1, 1]: long copies
      label_case(2, {}, 5000, 1),                    // several tiles
      label_case(1, {}, 1500, 5),                    // the same, each for some
      label_case(1, {{2, true}, {3, false}}, 5, 1),  // [C, 1, W]
      label_case(2, {{3, true}, {2, false}}, 5, 3),  // [1, H, 1, W, 1]
      label_case(1, {{2, true}, {2, false}, {3, true}, {2, false}}, 2, 9),
  };
}

// Some labels are none: just outside, and far.
Indices some_labels(int64_t n, int64_t segments) {
  Indices labels(static_cast<std::size_t>(n));
  for (int64_t i = 0; i < n; ++i) labels[i] = i * i % 11 % (segments + 1);
  if (n > 3) labels[3] = -1;
  if (n > 5) labels[5] = int64_t{1} << 62;
  return labels;
}

void test_labels() {
  for (const auto& c : label_cases()) {
    const auto n = static_cast<int64_t>(c.place.size());
    LabelCursor walk(c.map, 0);
    bool good = true;
    for (int64_t i = 0; i < n; ++i) {
      good = good && LabelCursor(c.map, i).label() == c.place[i] && walk.label() == c.place[i];
      if (i + 1 < n) walk.next();
    }
    check(good, c.text + ": LabelCursor");
  }
}

template <class Word>
void test_mask_case(const LabelCase& c, const BatchShape& batch, bool shared, int64_t segments) {
  const MaskShape p{batch, segments, shared ? 0 : c.labels, c.map};
  const auto what = "mask_segments " + c.text + ", " + std::to_string(sizeof(Word)) + " bytes, " +
                    std::to_string(segments) + " segments, " + std::to_string(batch.rows) +
                    " rows" + (shared ? ", shared" : "");
  const auto labels = some_labels(shared ? c.labels : batch.samples * c.labels, segments);
  const auto sample = some_samples(batch.rows, batch.samples);
  std::vector<std::uint8_t> on(batch.rows * segments);
  for (std::size_t i = 0; i < on.size(); ++i) on[i] = i % 3 != 0;
  std::vector<Word> x(batch.samples * batch.size), b(batch.baselines * batch.size), want;
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<Word>(2 * i + 1);
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<Word>(2 * i + 2);
  for (int64_t r = 0; r < batch.rows; ++r) {
    for (int64_t e = 0; e < batch.size; ++e) {
      const int64_t label = labels[sample[r] * p.label_step + c.place[e]];
      const bool off = label >= 0 && label < segments && on[r * segments + label] == 0;
      want.push_back(off ? b[batch.baseline_at(sample[r]) + e] : x[batch.at(sample[r]) + e]);
    }
  }
  std::vector<Word> out(want.size(), 0);
  const int64_t tasks = mask_tasks(p);
  for (const auto& [begin, end] : {std::pair{int64_t{0}, tasks / 3}, std::pair{tasks / 3, tasks}}) {
    mask_segments(x.data(), b.data(), labels.data(), on.data(), sample.data(), out.data(), p, begin,
                  end);
  }
  check(out == want, what);
  for (const Play grid : kPlays) {
    std::fill(out.begin(), out.end(), Word(0));
    play_packs<Word>(MaskElement<Word>{x.data(), b.data(), labels.data(), on.data(), sample.data(),
                                       out.data(), p},
                     grid);
    check(out == want, what + " element");
  }
  if constexpr (kEmulated) {
    std::fill(out.begin(), out.end(), Word(0));
    on_device(what, {reads(x), reads(b), reads(labels), reads(on), reads(sample), writes(out)},
              [&] {
                return mask_segments_cuda<Word>(x.data(), b.data(), labels.data(), on.data(),
                                                sample.data(), out.data(), p, nullptr);
              });
    check(out == want, what + " on the device");
  }
}

template <class Word>
void test_mask() {
  for (const auto& c : label_cases()) {
    const auto size = static_cast<int64_t>(c.place.size());
    for (const int64_t segments : {0, 1, 5}) {
      test_mask_case<Word>(c, {0, 2, 2, size}, true, segments);
      test_mask_case<Word>(c, {1, 1, 1, size}, true, segments);
      test_mask_case<Word>(c, {5, 3, 3, size}, true, segments);
      test_mask_case<Word>(c, {5, 3, 1, size}, false, segments);
    }
  }
  const MaskShape p{{5, 2, 2, 1}, 1, 0, label_case(1, {}, 1, 1).map};
  const std::vector<Word> x{7, 8}, b{9, 10};
  const Indices labels{0};
  const std::vector<std::uint8_t> on(5, 1);
  std::vector<Word> out(5, 0);
  play<1>(MaskElement<Word>{x.data(), b.data(), labels.data(), on.data(), kBadSamples.data(),
                            out.data(), p},
          kPlays[1]);
  const auto nan = static_cast<Word>(-1);
  check(out == std::vector<Word>{7, nan, 8, nan, nan}, "mask_segments without a sample");
  if constexpr (kEmulated) {
    std::fill(out.begin(), out.end(), Word(0));
    on_device("mask_segments without a sample",
              {reads(x), reads(b), reads(labels), reads(on), reads(kBadSamples), writes(out)}, [&] {
                return mask_segments_cuda<Word>(x.data(), b.data(), labels.data(), on.data(),
                                                kBadSamples.data(), out.data(), p, nullptr);
              });
    check(out == std::vector<Word>{7, nan, 8, nan, nan},
          "mask_segments without a sample, on the device");
  }
}

// What the CUDA glue makes of the labels of one row of [samples or 1, channels or 1, ...].
void sort_labels(const SegmentShape& p, const Indices& place, const int64_t* labels, Indices& order,
                 Indices& ends) {
  Indices positions(place.size());
  for (std::size_t i = 0; i < place.size(); ++i) positions[i] = static_cast<int64_t>(i);
  const auto label = [&](int64_t i) { return labels[place[i]]; };
  std::stable_sort(positions.begin(), positions.end(),
                   [&](int64_t i, int64_t j) { return label(i) < label(j); });
  for (int64_t m = 0; m <= p.segments; ++m) {
    const auto at = std::partition_point(positions.begin(), positions.end(),
                                         [&](int64_t i) { return label(i) < m; });
    ends.push_back(at - positions.begin());
  }
  order.insert(order.end(), positions.begin(), positions.end());
}

template <class T>
Doubles play_sums(const SegmentShape& p, const std::vector<T>& x, const Indices& place,
                  const Indices& labels, int64_t rows_of_samples, int64_t rows_of_channels) {
  Indices order, ends;
  const auto each = static_cast<int64_t>(labels.size()) / (rows_of_samples * rows_of_channels);
  for (int64_t row = 0; row < rows_of_samples * rows_of_channels; ++row) {
    sort_labels(p, place, labels.data() + row * each, order, ends);
  }
  const SegmentElement<T> element{x.data(),
                                  order.data(),
                                  ends.data(),
                                  nullptr,
                                  p,
                                  rows_of_samples == 1 ? 0 : rows_of_channels,
                                  rows_of_channels == 1 ? 0 : 1};
  Doubles out;
  if constexpr (kEmulated) {
    out.resize(static_cast<std::size_t>(element.size()));
    on_device("segment_sums", {reads(x), reads(order), reads(ends), writes(out)}, [&] {
      return segment_sums_cuda<T>(x.data(), order.data(), ends.data(), out.data(), p,
                                  element.row_sample_step, element.row_channel_step, nullptr);
    });
    return out;
  }
  for (int64_t o = 0; o < element.size(); ++o) {
    double sum = 0;
    for (int lane = 0; lane < kSegmentLanes; ++lane) sum += element.partial(o, lane);
    out.push_back(sum);
  }
  return out;
}

template <class T>
void test_sums_case(const LabelCase& c, int64_t channels, bool last, int64_t rows_of_samples,
                    int64_t rows_of_channels, int64_t segments) {
  const int64_t samples = 2;
  const auto positions = static_cast<int64_t>(c.place.size());
  const SegmentShape p{samples,
                       channels,
                       positions,
                       segments,
                       last,
                       rows_of_samples == 1 ? 0 : rows_of_channels * c.labels,
                       rows_of_channels == 1 ? 0 : c.labels,
                       c.map};
  const auto what =
      label<T>("segment_sums", {channels, last, rows_of_samples, rows_of_channels, segments}) +
      " " + c.text;
  const auto x = numbers<T>(samples * channels * positions, 1);
  const auto labels = some_labels(rows_of_samples * rows_of_channels * c.labels, segments);
  Doubles want(static_cast<std::size_t>(samples * channels * segments), 0.0);
  for (int64_t nc = 0; nc < samples * channels; ++nc) {
    const int64_t n = nc / channels, ch = nc % channels;
    for (int64_t i = 0; i < positions; ++i) {
      const int64_t m = labels[n * p.label_sample_step + ch * p.label_channel_step + c.place[i]];
      if (m < 0 || m >= segments) continue;
      want[nc * segments + m] +=
          value(x[n * channels * positions + ch * p.channel_step() + i * p.position_step()]);
    }
  }
  auto out = poison<double>(static_cast<int64_t>(want.size()));
  const int64_t tasks = segment_tasks(p);
  segment_sums(x.data(), labels.data(), out.data(), p, 0, tasks / 3);
  segment_sums(x.data(), labels.data(), out.data(), p, tasks / 3, tasks);
  expect(what, out, want, 0);
  expect(what + " element", play_sums(p, x, c.place, labels, rows_of_samples, rows_of_channels),
         want, 0);
}

template <class T>
void test_sums() {
  for (const auto& c : label_cases()) {
    for (const bool last : {false, true}) {
      for (const int64_t channels : {1, 3, 6, 21}) {
        test_sums_case<T>(c, channels, last, 1, 1, 5);
        test_sums_case<T>(c, channels, last, 2, 1, 1);
        test_sums_case<T>(c, channels, last, 1, channels, 5);
        test_sums_case<T>(c, channels, last, 2, channels, 0);
      }
    }
  }
  auto none = label_case(1, {}, 1, 1);  // no positions: sums of nothing
  none.place.clear();
  test_sums_case<T>(none, 3, false, 1, 1, 4);
}

template <class T>
void test_type() {
  test_path<T>();
  test_path_without_samples<T>();
  test_accumulate<T>();
  test_noise<T>();
  test_scatter<T>();
  test_sums<T>();
}

}  // namespace
}  // namespace xaifast

int main() {
  using namespace xaifast;
  test_type<float>();
  test_type<double>();
  test_type<BFloat16>();
  test_type<Float16>();
  test_accumulate_order();
  test_occlude<std::uint16_t>();
  test_occlude<std::uint32_t>();
  test_occlude<std::uint64_t>();
  test_scatter_order();
  test_labels();
  test_mask<std::uint16_t>();
  test_mask<std::uint32_t>();
  test_mask<std::uint64_t>();
  test_windows_of_nothing();
  test_philox<std::uint32_t>();
  test_philox<std::uint64_t>();
  test_standard_normal();
  return report();
}
