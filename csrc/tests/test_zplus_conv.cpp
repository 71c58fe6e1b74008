// Native tests of relevance through a convolution: blocks of the CUDA kernels, played on the host
// and run on the emulated device, against loops in float64 that push each product where it belongs.
// How they are made: checks.h.
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/checks.h"
#include "tests/played_tile.h"
#include "zplus_conv/kernels_cuda.h"

namespace xaifast {
namespace {

constexpr double kEps = 0.25;

struct Geometry {
  int64_t batch, groups, channels, units, in[2], kernel[2], stride[2], padding[2], dilation[2];
};

// Odd sizes; strides that skip inputs, that do and do not divide the dilation, and beyond the
// kernel; padding beyond the kernel; more than one tile of rows and columns; channels in whole and
// in cut chunks.
constexpr Geometry kGeometries[] = {
    {1, 1, 1, 1, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {1, 1}},
    {2, 1, 3, 5, {7, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
    {1, 1, 8, 16, {9, 11}, {3, 2}, {2, 3}, {1, 0}, {1, 2}},
    {2, 2, 3, 2, {5, 8}, {2, 3}, {2, 2}, {2, 1}, {2, 2}},
    {1, 3, 8, 8, {6, 5}, {3, 3}, {1, 2}, {0, 3}, {1, 3}},
    {1, 1, 40, 72, {5, 4}, {2, 2}, {3, 3}, {0, 0}, {1, 1}},
    {3, 1, 72, 24, {9, 8}, {1, 1}, {2, 1}, {0, 0}, {1, 1}},
    {0, 1, 2, 3, {4, 4}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
    {2, 1, 4, 3, {2, 4}, {5, 3}, {1, 1}, {0, 1}, {1, 1}},  // no output
    {2, 1, 4, 0, {5, 4}, {3, 3}, {1, 2}, {0, 1}, {1, 1}},  // no output channel
};

ConvShape shape_of(const Geometry& g, ConvRule rule, bool nonnegative, int64_t targets) {
  ConvShape p{};
  p.rule = rule;
  p.nonnegative = nonnegative;
  p.targets = targets;
  p.batch = g.batch;
  p.groups = g.groups;
  p.channels = g.channels;
  p.units = g.units;
  for (int d = 0; d < 2; ++d) {
    p.in[d] = g.in[d];
    p.kernel[d] = g.kernel[d];
    p.stride[d] = g.stride[d];
    p.padding[d] = g.padding[d];
    p.dilation[d] = g.dilation[d];
    const int64_t span = g.in[d] + 2 * g.padding[d] - g.dilation[d] * (g.kernel[d] - 1) - 1;
    p.out[d] = span < 0 ? 0 : span / g.stride[d] + 1;
  }
  for (int c = 0; c < kPixelChannels; ++c) {
    p.low[c] = -2.5 - c;
    p.high[c] = 2.25 + c;
  }
  return p;
}

// Memory of one call; w_t is w with both kinds of channels exchanged.
template <class T>
struct Memory {
  std::vector<T> a, R, w, w_t, b, s, r;

  Memory(const ConvShape& p, bool with_bias)
      : a(numbers<T>(p.inputs(), 1)),
        R(numbers<T>(p.targets * p.outputs(), 2)),
        w(numbers<T>(p.groups * p.units * p.taps() * p.channels, 3)),
        w_t(w.size()),
        b(with_bias ? numbers<T>(p.groups * p.units, 4) : std::vector<T>()),
        s(poison<T>(p.targets * p.outputs())),
        r(poison<T>(p.targets * p.inputs())) {
    if (p.nonnegative) {
      for (auto& x : a) x = value(x) < 0 ? T(0) : x;
    }
    std::size_t at = 0;
    for (int64_t g = 0; g < p.groups; ++g) {
      for (int64_t c = 0; c < p.channels; ++c) {
        for (int64_t tap = 0; tap < p.taps(); ++tap) {
          for (int64_t k = 0; k < p.units; ++k) {
            w_t[at++] =
                w[static_cast<std::size_t>(((g * p.units + k) * p.taps() + tap) * p.channels + c)];
          }
        }
      }
    }
  }

  ConvTensors<T> tensors() {
    return {a.data(), R.data(), w.data(), w_t.data(), b.empty() ? nullptr : b.data(),
            s.data(), r.data()};
  }
};

double contribution(const ConvShape& p, int64_t c, double a, double w) {
  const double aw = a * w;
  switch (p.rule) {
    case ConvRule::kAll:
      return aw;
    case ConvRule::kPositive:
      return std::max(aw, 0.0);
    case ConvRule::kNegative:
      return std::min(aw, 0.0);
    case ConvRule::kBox:
      return w > 0 ? (a - p.low[c]) * w : (a - p.high[c]) * w;
    default:
      return w * w;
  }
}

// f(output, input, channel of its group, weight) for every pair that a convolution connects.
template <class T, class F>
void for_each_pair(const ConvShape& p, const Memory<T>& m, const F& f) {
  const int64_t K = p.groups * p.units, C = p.groups * p.channels;
  for (int64_t o = 0; o < p.outputs(); ++o) {
    const int64_t k = o % K, o1 = o / K % p.out[1], o0 = o / K / p.out[1] % p.out[0];
    const int64_t n = o / K / p.out[1] / p.out[0];
    for (int64_t tap = 0; tap < p.taps(); ++tap) {
      const int64_t i0 = o0 * p.stride[0] - p.padding[0] + tap / p.kernel[1] * p.dilation[0];
      const int64_t i1 = o1 * p.stride[1] - p.padding[1] + tap % p.kernel[1] * p.dilation[1];
      if (i0 < 0 || i0 >= p.in[0] || i1 < 0 || i1 >= p.in[1]) continue;
      for (int64_t c = 0; c < p.channels; ++c) {
        const int64_t i = ((n * p.in[0] + i0) * p.in[1] + i1) * C + k / p.units * p.channels + c;
        const double w =
            value(m.w[static_cast<std::size_t>((k * p.taps() + tap) * p.channels + c)]);
        f(static_cast<std::size_t>(o), static_cast<std::size_t>(i), c, w);
      }
    }
  }
}

// R_i = sum_o contribution(i, o) R_o / (z_o + eps sgn z_o). Returns s, and R through `r`.
template <class T>
Doubles naive_conv(const ConvShape& p, const Memory<T>& m, Doubles& r) {
  Doubles z(static_cast<std::size_t>(p.outputs())), s;
  for (std::size_t o = 0; o < z.size() && !m.b.empty(); ++o) z[o] = value(m.b[o % m.b.size()]);
  for_each_pair(p, m, [&](std::size_t o, std::size_t i, int64_t c, double w) {
    z[o] += contribution(p, c, value(m.a[i]), w);
  });
  r.assign(static_cast<std::size_t>(p.targets * p.inputs()), 0.0);
  for (std::size_t t = 0; t < static_cast<std::size_t>(p.targets); ++t) {
    for (std::size_t o = 0; o < z.size(); ++o) {
      s.push_back(value(m.R[t * z.size() + o]) / (z[o] >= 0 ? z[o] + kEps : z[o] - kEps));
    }
    for_each_pair(p, m, [&](std::size_t o, std::size_t i, int64_t c, double w) {
      r[t * m.a.size() + i] += contribution(p, c, value(m.a[i]), w) * s[t * z.size() + o];
    });
  }
  return s;
}

// Rounding of s enters R, and R is a sum of both signs: relative to the largest.
template <class T>
double allowed(const Doubles& want) {
  double largest = 1;
  for (const double x : want) largest = std::max(largest, std::abs(x));
  return 4 * tolerance<T>() * largest;
}

template <class T>
void expect_both(const std::string& what, const Memory<T>& m, const Doubles& s, const Doubles& r,
                 double rounding = 1) {
  expect(what + ": s", m.s, s, rounding * allowed<T>(s));
  expect(what + ": R", m.r, r, rounding * allowed<T>(r));
}

template <class T>
std::string name_of(const char* kernel, const ConvShape& p, std::size_t geometry) {
  return label<T>(kernel, {static_cast<int64_t>(geometry)}) + " rule " +
         std::to_string(static_cast<int>(p.rule)) + (p.nonnegative ? " a >= 0" : "") + " targets " +
         std::to_string(p.targets);
}

// One launcher of kernels_cuda.h on the emulated device, against the same loops.
template <class T, class F>
void test_on_device(const char* kernel, const ConvShape& p, std::size_t geometry, double rounding,
                    const F& launch) {
  if constexpr (kEmulated) {
    Memory<T> m(p, p.targets != 1);
    Doubles r;
    const Doubles s = naive_conv(p, m, r);
    const auto what = name_of<T>(kernel, p, geometry);
    on_device(
        what,
        {reads(m.a), reads(m.R), reads(m.w), reads(m.w_t), reads(m.b), writes(m.s), writes(m.r)},
        [&] { return launch(p, m.tensors(), kEps, nullptr); });
    expect_both(what + " on the device", m, s, r, rounding);
  }
}

template <class T, bool kTensorCores, int kTerms>
void test_tile(const ConvShape& p, std::size_t geometry, double rounding) {
  Memory<T> m(p, p.targets != 1);
  Doubles r;
  const Doubles s = naive_conv(p, m, r);
  test_on_device<T>(kTensorCores ? "tensor cores" : "tiles", p, geometry, rounding, [](auto... x) {
    if constexpr (kTensorCores) {
      return conv_tensor_cores_cuda<T>(x...);
    } else {
      return conv_tiles_cuda(x...);
    }
  });
  if (p.empty()) return;
  play_tiles<TileTraits<T, kTensorCores, false, kTerms>>(p, m.tensors(), kEps);
  play_tiles<TileTraits<T, kTensorCores, true, kTerms>>(p, m.tensors(), kEps);
  expect_both(name_of<T>(kTensorCores ? "tensor cores" : "tiles", p, geometry), m, s, r, rounding);
}

// Numbers in memory that does not start a pack.
template <class T>
std::vector<T> shifted(const std::vector<T>& x) {
  std::vector<T> y(1, T(0));
  y.insert(y.end(), x.begin(), x.end());
  return y;
}

// Whole chunks everywhere, but the relevance or the bias starts at an odd place.
template <class T, bool kTensorCores>
void test_unaligned(double rounding) {
  using K = TileTraits<T, kTensorCores, false, 2>;
  using Back = TileTraits<T, kTensorCores, true, 2>;
  const auto p = shape_of(kGeometries[5], ConvRule::kPositive, false, 2);
  for (const bool bias : {false, true}) {
    Memory<T> m(p, true);
    Doubles r;
    const Doubles s = naive_conv(p, m, r);
    const std::vector<T> other = shifted(bias ? m.b : m.R);
    ConvTensors<T> x = m.tensors();
    check(chunks_align(p, x), label<T>("tiles", {}) + ": aligned chunks");
    (bias ? x.b : x.R) = other.data() + 1;
    check(!chunks_align(p, x), label<T>("tiles", {}) + ": chunks of unaligned pointers");
    play_tiles<K>(p, x, kEps);
    play_tiles<Back>(p, x, kEps);
    expect_both(name_of<T>("unaligned tiles", p, 5), m, s, r, rounding);
    if constexpr (kEmulated) {
      const auto what = name_of<T>("unaligned tiles on the device", p, 5);
      on_device(what,
                {reads(m.a), reads(m.R), reads(m.w), reads(m.w_t), reads(m.b), reads(other),
                 writes(m.s), writes(m.r)},
                [&] {
                  if constexpr (kTensorCores) {
                    return conv_tensor_cores_cuda<T>(p, x, kEps, nullptr);
                  } else {
                    return conv_tiles_cuda(p, x, kEps, nullptr);
                  }
                });
      expect_both(what, m, s, r, rounding);
    }
  }
}

template <class T>
void test_unaligned_pixels() {
  const Geometry g{1, 1, 3, 24, {9, 8}, {3, 3}, {1, 1}, {1, 1}, {1, 1}};
  const auto p = shape_of(g, ConvRule::kBox, false, 1);
  for (const bool aligned : {true, false}) {
    Memory<T> m(p, true);
    Doubles r;
    const Doubles s = naive_conv(p, m, r);
    const std::vector<T> other = shifted(m.R);
    ConvTensors<T> x = m.tensors();
    if (!aligned) x.R = other.data() + 1;
    play_pixels<T>(p, x, kEps);
    expect_both(name_of<T>("pixels", p, aligned ? 0 : 1), m, s, r);
    if constexpr (kEmulated) {
      on_device("pixels",
                {reads(m.a), reads(m.R), reads(m.w), reads(m.w_t), reads(m.b), reads(other),
                 writes(m.s), writes(m.r)},
                [&] { return conv_pixels_cuda<T>(p, x, kEps, nullptr); });
      expect_both(name_of<T>("pixels on the device", p, aligned ? 0 : 1), m, s, r);
    }
  }
}

// A thread's columns are neighbours, and every column lies in one slot.
template <class K>
void test_columns() {
  std::vector<int> found(K::kColumns, 0);
  for (int slot = 0; slot < K::kColumns; ++slot) ++found[static_cast<std::size_t>(K::column(slot))];
  for (const int n : found) check(n == 1, "columns of the slots");
  for (int thread = 0; thread < K::kThreads; ++thread) {
    const int first = K::column(K::slot(thread, 0));
    for (int j = 0; j < K::kEach; ++j) {
      check(K::column(K::slot(thread, j)) == first + j, "neighbouring columns");
    }
    check(first % K::kEach == 0, "columns that start packs");
  }
}

template <class T, bool kTensorCores>
void test_tiles(double rounding) {
  for (std::size_t i = 0; i < std::size(kGeometries); ++i) {
    const Geometry& g = kGeometries[i];
    const auto positive = ConvRule::kPositive, negative = ConvRule::kNegative;
    test_tile<T, kTensorCores, 1>(shape_of(g, ConvRule::kAll, false, 2), i, rounding);
    test_tile<T, kTensorCores, 1>(shape_of(g, positive, true, 1), i, rounding);
    test_tile<T, kTensorCores, 1>(shape_of(g, negative, true, 2), i, rounding);
    test_tile<T, kTensorCores, 2>(shape_of(g, positive, false, 2), i, rounding);
    test_tile<T, kTensorCores, 2>(shape_of(g, negative, false, 1), i, rounding);
    check(fits_tiles(shape_of(g, positive, true, 1)), "fits_tiles " + std::to_string(i));
  }
}

// First layers: strides, kernels and units beyond a chunk, inputs beyond a rectangle.
constexpr Geometry kPixels[] = {
    {1, 1, 1, 1, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {1, 1}},
    {2, 1, 3, 18, {9, 19}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
    {1, 1, 3, 5, {17, 18}, {7, 7}, {2, 2}, {3, 3}, {1, 1}},
    {1, 1, 4, 16, {12, 35}, {3, 2}, {4, 3}, {0, 2}, {2, 3}},
    {0, 1, 3, 4, {8, 8}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
    {2, 1, 3, 4, {2, 8}, {5, 3}, {1, 1}, {1, 1}, {1, 1}},  // no output
    {2, 1, 3, 0, {9, 8}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},  // no output channel
};

template <class T>
void test_pixels() {
  for (std::size_t i = 0; i < std::size(kPixels); ++i) {
    for (int rule = 0; rule <= static_cast<int>(ConvRule::kSquare); ++rule) {
      for (const bool nonnegative : {false, true}) {
        const auto p = shape_of(kPixels[i], static_cast<ConvRule>(rule), nonnegative, 1 + rule % 2);
        Memory<T> m(p, nonnegative);
        Doubles r;
        const Doubles s = naive_conv(p, m, r);
        if (!p.empty()) play_pixels<T>(p, m.tensors(), kEps);
        expect_both(name_of<T>("pixels", p, i), m, s, r);
        test_on_device<T>("pixels", p, i, 1, [](auto... x) { return conv_pixels_cuda<T>(x...); });
        check(pixels_fit(p), "pixels_fit " + std::to_string(i));
      }
    }
  }
}

// What AlexNet and ResNets begin with fits; what would not fit into shared memory is refused.
void test_pixels_fit() {
  Geometry g{1, 1, 3, 64, {224, 224}, {11, 11}, {4, 4}, {2, 2}, {1, 1}};
  check(pixels_fit(shape_of(g, ConvRule::kBox, false, 1)), "pixels_fit 11 x 11");
  g.stride[0] = g.stride[1] = 1;
  g.dilation[0] = g.dilation[1] = 2;
  check(!pixels_fit(shape_of(g, ConvRule::kBox, false, 1)), "pixels_fit with much around");
  g.channels = 5;
  check(!pixels_fit(shape_of(g, ConvRule::kBox, false, 1)), "pixels_fit five channels");
}

// What would be more blocks along y or z than CUDA allows is refused before a launch.
void test_fits_tiles() {
  Geometry g{1, 16383, 1, 1, {4, 4}, {1, 1}, {2, 2}, {0, 0}, {1, 1}};
  check(fits_tiles(shape_of(g, ConvRule::kAll, false, 1)), "fits_tiles: groups");
  g.groups = 16384;
  check(!fits_tiles(shape_of(g, ConvRule::kAll, false, 1)), "fits_tiles: too many groups");
  g = {1, 1, 1, 65535 * 64, {4, 4}, {1, 1}, {1, 1}, {0, 0}, {1, 1}};
  check(fits_tiles(shape_of(g, ConvRule::kAll, false, 1)), "fits_tiles: units");
  ++g.units;
  check(!fits_tiles(shape_of(g, ConvRule::kAll, false, 1)), "fits_tiles: too many units");
}

void test_words() {
  const Word one = filled<float>(1.0f), zero = filled<float>(0), nan = filled<float>(NAN);
  check(at_least<float>(one, zero) == one && at_most<float>(one, zero) == zero, "bounds");
  check(at_least<float>(nan, zero) == nan && at_most<float>(nan, zero) == nan, "bounds of a NaN");
  const Word pair = filled<BFloat16>(-2.0f) & 0xffffu;  // [-2, 0]
  check(at_least<BFloat16>(pair, 0) == 0 && at_most<BFloat16>(pair, 0) == pair, "bounds of a pair");
  check(operand<float>(0x3f801000u) == 0x3f802000u, "tf32 rounds to nearest");
  check(operand<float>(0x3f800fffu) == 0x3f800000u, "tf32 rounds down");
  check(operand<BFloat16>(0x12345678u) == 0x12345678u, "16-bit operands stay");
}

}  // namespace
}  // namespace xaifast

int main() {
  using namespace xaifast;
  test_words();
  test_fits_tiles();
  test_pixels_fit();
  test_pixels<float>();
  test_pixels<BFloat16>();
  test_pixels<Float16>();
  test_tiles<float, false>(1);
  test_tiles<float, true>(0x1p10);  // s enters the second product rounded to tf32
  test_tiles<BFloat16, true>(1);
  test_tiles<Float16, true>(1);
  test_unaligned<float, false>(1);
  test_unaligned<float, true>(0x1p10);
  test_unaligned<Float16, true>(1);
  test_unaligned_pixels<float>();
  test_unaligned_pixels<BFloat16>();
  test_columns<TileTraits<float, false, false, 1>>();
  test_columns<TileTraits<float, true, false, 1>>();
  return report();
}
