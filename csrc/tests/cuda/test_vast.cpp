// Every CUDA kernel with more than 2^31 numbers, or more items than a grid has blocks, on the
// emulated device: memory is there where it is touched, some blocks run, and each number that they
// wrote is looked at. Index arithmetic that does not fit its type shows as an overflow, as an
// access outside of every buffer, or as a wrong number.
#include <cmath>
#include <string>
#include <vector>

#include "lstm_path/kernels_cuda.h"
#include "recurrent/kernels_cuda.h"
#include "regression/kernels_cuda.h"
#include "relevance/kernels_cuda.h"
#include "sampling/kernels_cuda.h"
#include "sampling/normal.h"
#include "sampling/philox.h"
#include "tests/checks.h"
#include "windows/kernels_cuda.h"
#include "zplus_conv/kernels_cuda.h"

namespace xaifast {
namespace {

constexpr int64_t k31 = int64_t{1} << 31;
// A pack or more for each thread of the largest grid, and a second round that is cut short.
constexpr int64_t kMany = k31 + (int64_t{1} << 23) + 5;

// Multiples of 1/4 in [-2, 2], without a period that a wrong index could hide in.
double number_at(int64_t i) { return static_cast<double>((i * 7 + i / 1000003) % 17 - 8) / 4; }
template <class T>
struct Number {
  int64_t shift = 0;
  T operator()(int64_t i) const { return static_cast<T>(static_cast<float>(number_at(i + shift))); }
};

double quotient(double R, double z, double eps) {
  const double d = z >= 0 ? z + eps : z - eps;
  return d == 0 ? 0 : R / d;
}

template <class T>
auto like(const T&, double want, double allowed = 2 * tolerance<T>()) {
  return [=](T got) { return near(value(got), want, allowed); };
}

// ---- relevance --------------------------------------------------------------------------------

void test_divide() {
  using T = Float16;
  Vast<T> R(kMany), z(kMany), s(kMany);
  const auto good = [](int64_t i, T got) {
    return near(value(got), quotient(number_at(i), number_at(i + 3), 0.25), tolerance<T>());
  };
  on_some_blocks("divide", {R.reads(Number<T>{}), z.reads(Number<T>{3}), s.writes("divide", good)},
                 [&] {
                   return stabilized_divide_cuda<T>(R.data(), z.data(), nullptr, s.data(),
                                                    {1, kMany, 1, 1, false}, 0.25, nullptr);
                 });
  check(s.seen() > 0, "divide beyond 2^31");
}

void test_products() {
  using T = BFloat16;
  Vast<T> a(kMany), u(2 * kMany), c(2 * kMany), R(kMany);
  const auto split = [](int64_t i, T got) {
    const double x = number_at(i % kMany);
    return value(got) == (i < kMany ? std::max(x, 0.0) : std::min(x, 0.0));
  };
  on_some_blocks("split_signs", {a.reads(Number<T>{}), u.writes("split_signs", split)},
                 [&] { return split_signs_cuda<T>(a.data(), u.data(), 1, kMany, nullptr); });
  check(u.seen() > 0, "split_signs beyond 2^31");
  const auto product = [](int64_t i, T got) {
    const double want =
        number_at(i) * number_at(i + 5) + number_at(i + kMany) * number_at(i + kMany + 5);
    return near(value(got), want, tolerance<T>());
  };
  on_some_blocks(
      "multiply_parts",
      {u.reads(Number<T>{}), c.reads(Number<T>{5}), R.writes("multiply_parts", product)}, [&] {
        return multiply_parts_cuda<T>(u.data(), c.data(), R.data(), {1, 1, 2, kMany}, nullptr);
      });
  check(R.seen() > 0, "multiply_parts beyond 2^31");
}

void test_sums() {
  using T = float;
  Vast<T> x(kMany), y(kMany), R(kMany), Rx(kMany), Ry(kMany);
  const auto good = [](bool second) {
    return [second](int64_t i, T got) {
      const double xi = number_at(i), yi = 0.5 * number_at(i + 1);
      const double s = quotient(number_at(i + 2), xi + yi, 0.25);
      return near(got, (second ? yi : xi) * s, 1e-6);
    };
  };
  on_some_blocks("add_split",
                 {x.reads(Number<T>{}), y.reads(Number<T>{1}), R.reads(Number<T>{2}),
                  Rx.writes("add_split Rx", good(false)), Ry.writes("add_split Ry", good(true))},
                 [&] {
                   return add_split_cuda<T>(x.data(), y.data(), R.data(), Rx.data(), Ry.data(),
                                            {1, kMany, 0.5, 0.25}, nullptr);
                 });
  check(Rx.seen() > 0 && Ry.seen() > 0, "add_split beyond 2^31");
}

// ---- sampling ---------------------------------------------------------------------------------

constexpr int64_t kRowSize = (int64_t{1} << 30) + 8, kRows = 3;
constexpr BatchShape kBatch{kRows, kRows, 1, kRowSize};
const std::vector<int64_t> kSample{1, 2, 0};

void test_path() {
  using T = Float16;
  const Doubles alpha{0.25, 0.5, 0.75};
  Vast<T> x(kRows * kRowSize), b(kRowSize), out(kRows * kRowSize);
  const auto good = [&](int64_t i, T got) {
    const auto r = static_cast<std::size_t>(i / kRowSize);
    const int64_t e = i % kRowSize;
    const double from = number_at(e + 1);
    const double want = from + alpha[r] * (number_at(kSample[r] * kRowSize + e) - from);
    return near(value(got), want, tolerance<T>());
  };
  on_some_blocks("path_points",
                 {x.reads(Number<T>{}), b.reads(Number<T>{1}), reads(kSample), reads(alpha),
                  out.writes("path_points", good)},
                 [&] {
                   return path_points_cuda<T>(x.data(), b.data(), kSample.data(), alpha.data(),
                                              out.data(), kBatch, false, nullptr);
                 });
  check(out.seen() > 0, "path_points beyond 2^31");
}

void test_accumulate() {
  const Doubles weight{0.25, 0.5, 2};
  Vast<BFloat16> g(kRows * kRowSize);
  Vast<float> total(kRows * kRowSize);
  const auto good = [&](int64_t i, float got) {
    double want = number_at(i);
    for (std::size_t r = 0; r < kSample.size(); ++r) {
      if (kSample[r] != i / kRowSize) continue;
      want += weight[r] * number_at(static_cast<int64_t>(r) * kRowSize + i % kRowSize + 2);
    }
    return near(got, want, 1e-6);
  };
  on_some_blocks("accumulate_rows",
                 {g.reads(Number<BFloat16>{2}), reads(kSample), reads(weight),
                  total.updates("accumulate_rows", Number<float>{}, good)},
                 [&] {
                   return accumulate_rows_cuda<BFloat16, float>(
                       g.data(), kSample.data(), weight.data(), total.data(), kBatch, nullptr);
                 });
  check(total.seen() > 0, "accumulate_rows beyond 2^31");
}

void test_noise() {
  using T = float;
  const std::vector<int64_t> draw{4, 0, 7};
  const Doubles std{0.5, 0.25, 1};
  const NoiseShape p{kBatch, 1, 12345};
  Vast<T> x(kRows * kRowSize), out(kRows * kRowSize);
  const auto good = [&](int64_t i, T got) {
    const auto r = static_cast<std::size_t>(i / kRowSize);
    const int64_t e = i % kRowSize, n = kSample[r];
    const auto w = philox(Philox<std::uint32_t>{static_cast<std::uint32_t>(e / 4),
                                                static_cast<std::uint32_t>(draw[r]),
                                                static_cast<std::uint32_t>(n), 0},
                          p.key0(), p.key1());
    const std::uint32_t words[] = {w.c0, w.c1, w.c2, w.c3};
    const double noise = std[static_cast<std::size_t>(n)] * standard_normal(words[e % 4]);
    return near(got, number_at(n * kRowSize + e) + noise, 1e-6);
  };
  on_some_blocks("add_noise",
                 {x.reads(Number<T>{}), reads(kSample), reads(draw), reads(std),
                  out.writes("add_noise", good)},
                 [&] {
                   return add_noise_cuda<T>(x.data(), kSample.data(), draw.data(), std.data(),
                                            out.data(), p, nullptr);
                 });
  check(out.seen() > 0, "add_noise beyond 2^31");
}

// One axis of `size` numbers under windows of 5 at every `stride`.
Windows windows_of(int64_t size, int64_t stride) {
  return {1, {{size, 5, stride, window_positions(size, 5, stride), 1}}};
}

void test_occlude() {
  using Word = std::uint16_t;
  constexpr int64_t size = (int64_t{1} << 26) + 8, stride = int64_t{1} << 20;
  const Windows w = windows_of(size, stride);
  const int64_t K = w.axis[0].positions;
  const auto word = [](int64_t i) { return static_cast<Word>(i * 7 + i / 65537); };
  Vast<Word> x(size), b(size), out(K * size);
  // Blocks of the copy and of the cover are drawn apart: what is covered may still be the copy's.
  const auto good = [&](int64_t i, Word got) {
    const int64_t k = i / size, e = i % size;
    const bool covered = e >= k * stride && e < k * stride + 5;
    return got == word(e) || (covered && got == word(e + 1));
  };
  on_some_blocks("occlude_windows",
                 {x.reads(word), b.reads([&](int64_t i) { return word(i + 1); }),
                  out.writes("occlude_windows", good)},
                 [&] {
                   return occlude_windows_cuda<Word>(x.data(), b.data(), out.data(),
                                                     {{K, 1, 1, size}, 0, w}, nullptr);
                 });
  check(out.seen() > 0, "occlude_windows beyond 2^31");
}

void test_scatter() {
  using T = float;
  const Windows w = windows_of(kMany, 3);
  const int64_t K = w.axis[0].positions;
  Vast<T> scores(K), out(kMany);
  const auto good = [&](int64_t e, T got) {
    double want = 0;
    for (int64_t k = std::max<int64_t>((e - 2) / 3, 0); k <= e / 3 && k < K; ++k) {
      if (e < k * 3 + 5) want += number_at(k);
    }
    return near(got, want, 1e-6);
  };
  on_some_blocks(
      "scatter_windows", {scores.reads(Number<T>{}), out.writes("scatter_windows", good)}, [&] {
        return scatter_windows_cuda<T>(scores.data(), out.data(), {1, kMany, K, false, w}, nullptr);
      });
  check(out.seen() > 0, "scatter_windows beyond 2^31");
}

void test_mask() {
  using Word = std::uint32_t;
  const auto word = [](int64_t i) { return static_cast<Word>(i * 7 + i / 65537); };
  const auto label = [](int64_t i) { return (i * 5 + i / 1000003) % 4 - 1; };
  const std::vector<std::uint8_t> on{0, 1, 1, 1, 0, 1, 1, 1, 0};  // [rows, segments]
  const MaskShape p{kBatch, 3, kRowSize, {1, 1, kRowSize, 1, 0, {}}};
  Vast<Word> x(kRows * kRowSize), b(kRowSize), out(kRows * kRowSize);
  Vast<int64_t> labels(kRows * kRowSize);
  const auto good = [&](int64_t i, Word got) {
    const int64_t r = i / kRowSize, e = i % kRowSize, n = kSample[static_cast<std::size_t>(r)];
    const int64_t m = label(n * kRowSize + e);
    const bool off = m >= 0 && on[static_cast<std::size_t>(r * 3 + m)] == 0;
    return got == (off ? word(e + 1) : word(n * kRowSize + e));
  };
  on_some_blocks(
      "mask_segments",
      {x.reads(word), b.reads([&](int64_t i) { return word(i + 1); }), labels.reads(label),
       reads(on), reads(kSample), out.writes("mask_segments", good)},
      [&] {
        return mask_segments_cuda<Word>(x.data(), b.data(), labels.data(), on.data(),
                                        kSample.data(), out.data(), p, nullptr);
      });
  check(out.seen() > 0, "mask_segments beyond 2^31");
}

// More sums than blocks, of more numbers than 2^31.
void test_segments() {
  using T = Float16;
  constexpr int64_t each = 2048, segments = (int64_t{1} << 20) + 3, positions = each * segments;
  const auto place = [](int64_t i) { return positions - 1 - i; };
  const SegmentShape p{1, 1, positions, segments, false, 0, 0, {1, 1, positions, 1, 0, {}}};
  Vast<T> x(positions);
  Vast<int64_t> order(positions), ends(segments + 1);
  Vast<double> out(segments);
  int64_t last = 0;
  const auto good = [&](int64_t m, double got) {
    double want = 0;
    for (int64_t i = m * each; i < (m + 1) * each; ++i) want += number_at(place(i));
    last = std::max(last, m);
    return got == want;
  };
  on_some_blocks("segment_sums",
                 {x.reads(Number<T>{}), order.reads(place),
                  ends.reads([](int64_t m) { return m * each; }), out.writes("segment_sums", good)},
                 [&] {
                   return segment_sums_cuda<T>(x.data(), order.data(), ends.data(), out.data(), p,
                                               0, 0, nullptr);
                 });
  check(last >= int64_t{1} << 20, "segment_sums with more sums than blocks");
}

// ---- windows ----------------------------------------------------------------------------------

void test_boxes() {
  using T = BFloat16;
  constexpr int64_t channels = 40, length = 7, map = 50, rows = kMany / channels / length + 1;
  const BoxShape p{rows, channels, 1, {1, 1, map}, {1, 1, length}, {1, 1, 3}};
  const auto start = [](int64_t r) { return r % (map + 6) - 6; };
  const auto origin = [](int64_t r) { return r % (map + 6) - 4; };
  const auto x = numbers<T>(map * channels, 1);
  Vast<T> box(rows * 3 * channels), out(rows * length * channels);
  Vast<int64_t> starts(rows), origins(rows);
  const auto good = [&](int64_t i, T got) {
    const int64_t c = i % channels, k = i / channels % length, r = i / channels / length;
    const int64_t at = start(r) + k, own = at - origin(r);
    if (own >= 0 && own < 3) return value(got) == number_at((r * 3 + own) * channels + c);
    const bool there = at >= 0 && at < map;
    return value(got) == (there ? value(x[static_cast<std::size_t>(at * channels + c)]) : -1.0);
  };
  on_some_blocks("cut_boxes",
                 {reads(x), box.reads(Number<T>{}), origins.reads(origin), starts.reads(start),
                  out.writes("cut_boxes", good)},
                 [&] {
                   return cut_boxes_cuda<T>(x.data(), box.data(), origins.data(), starts.data(),
                                            out.data(), p, -1, nullptr);
                 });
  check(out.seen() > 0, "cut_boxes beyond 2^31");
}

// ---- convolutions of 1 x 1 --------------------------------------------------------------------

// s[o, k] = R[o, k] / (z + eps sgn z), z = sum_c a_c w_kc;   R[o, c] = a_c sum_k w_kc s[o, k]
template <class T>
struct PointConv {
  ConvShape p{};
  std::vector<T> w, w_t;

  PointConv(int64_t batch, int64_t channels, int64_t units) {
    p.rule = ConvRule::kAll;
    p.targets = p.groups = 1;
    p.batch = batch;
    p.channels = channels;
    p.units = units;
    for (int d = 0; d < 2; ++d) {
      p.in[d] = p.out[d] = 32;
      p.kernel[d] = p.stride[d] = p.dilation[d] = 1;
    }
    w = numbers<T>(units * channels, 3);
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t k = 0; k < units; ++k)
        w_t.push_back(w[static_cast<std::size_t>(k * channels + c)]);
    }
  }
  double weight(int64_t k, int64_t c) const {
    return value(w[static_cast<std::size_t>(k * p.channels + c)]);
  }
  double s(int64_t o, int64_t k) const {
    double z = 0;
    for (int64_t c = 0; c < p.channels; ++c) z += number_at(o * p.channels + c) * weight(k, c);
    return quotient(number_at(o * p.units + k + 3), z, 0.25);
  }
  // The s of one position; neighbours ask for the same.
  const Doubles& row(int64_t o) const {
    if (o != held) {
      held = o;
      kept.clear();
      for (int64_t k = 0; k < p.units; ++k) kept.push_back(s(o, k));
    }
    return kept;
  }
  mutable int64_t held = -1;
  mutable Doubles kept;
};

template <class T, class F>
void test_conv(const std::string& what, const PointConv<T>& conv, double rounding,
               const F& launch) {
  const ConvShape& p = conv.p;
  Vast<T> a(p.inputs()), R(p.outputs()), s(p.outputs()), r(p.inputs());
  const auto s_at = [&](int64_t i) {
    return conv.row(i / p.units)[static_cast<std::size_t>(i % p.units)];
  };
  const double allowed = 16 * rounding * tolerance<T>();
  const auto good_s = [&](int64_t i, T got) { return near(value(got), s_at(i), allowed); };
  const auto good_r = [&](int64_t i, T got) {
    const int64_t o = i / p.channels, c = i % p.channels;
    double sum = 0, scale = 1;
    for (int64_t k = 0; k < p.units; ++k) {
      const double product = conv.row(o)[static_cast<std::size_t>(k)] * conv.weight(k, c);
      sum += product;
      scale += std::abs(product);
    }
    return near(value(got), number_at(i) * sum, allowed * scale);
  };
  on_some_blocks(
      what,
      {a.reads(Number<T>{}), R.reads(Number<T>{3}), reads(conv.w), reads(conv.w_t),
       s.updates(
           what + " s", [&](int64_t i) { return static_cast<T>(static_cast<float>(s_at(i))); },
           good_s),
       r.writes(what + " R", good_r)},
      [&] {
        return launch(p,
                      ConvTensors<T>{a.data(), R.data(), conv.w.data(), conv.w_t.data(), nullptr,
                                     s.data(), r.data()},
                      0.25, nullptr);
      });
  check(s.seen() > 0 && r.seen() > 0, what + " beyond 2^31");
}

void test_convs() {
  const auto tiles = [](auto... x) { return conv_tiles_cuda(x...); };
  const int64_t batch = k31 / 1024 / 32 + 77;
  test_conv("tiles", PointConv<float>(batch, 48, 40), 1, tiles);
  test_conv("tensor cores", PointConv<float>(batch, 48, 40), 0x1p10,
            [](auto... x) { return conv_tensor_cores_cuda<float>(x...); });
  test_conv("tensor cores", PointConv<Float16>(batch, 48, 40), 1,
            [](auto... x) { return conv_tensor_cores_cuda<Float16>(x...); });
  test_conv("tensor cores", PointConv<BFloat16>(batch, 48, 40), 1,
            [](auto... x) { return conv_tensor_cores_cuda<BFloat16>(x...); });
  test_conv("pixels", PointConv<float>(k31 / 1024 / 4 + (1 << 17), 4, 5), 1,
            [](auto... x) { return conv_pixels_cuda<float>(x...); });
}

// ---- recurrent --------------------------------------------------------------------------------

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

// One step of an LSTM of more samples than blocks; in_ the numbers of unit j of sample n.
struct VastLstm {
  static constexpr int64_t H = 40, N = (int64_t{1} << 24) + 3;
  std::vector<float> w = numbers<float>(4 * H * H, 1), b = numbers<float>(4 * H, 2);

  VastLstm() {
    for (auto& x : w) x /= 16;
  }
  static double a(int64_t i) { return number_at(i); }
  static double before(int64_t i) { return number_at(i + 9) / 4; }
  double z(int64_t i) const {
    const int64_t n = i / (4 * H), r = i % (4 * H);
    double sum = a(i) + static_cast<double>(b[static_cast<std::size_t>(r)]);
    for (int64_t j = 0; j < H; ++j) {
      sum += static_cast<double>(w[static_cast<std::size_t>(r * H + j)]) * before(n * H + j);
    }
    return sum;
  }
  double c(int64_t i) const {
    const int64_t at = i / H * 4 * H + i % H;
    return logistic(z(at + H)) * before(i) + logistic(z(at)) * std::tanh(z(at + 2 * H));
  }
  double h(int64_t i) const { return logistic(z(i / H * 4 * H + i % H + 3 * H)) * std::tanh(c(i)); }
};

void test_states() {
  const VastLstm lstm;
  constexpr int64_t H = VastLstm::H, N = VastLstm::N, all = N * H;
  std::vector<float> w_t(lstm.w.size());
  for (int64_t r = 0; r < 4 * H; ++r) {
    for (int64_t j = 0; j < H; ++j) {
      w_t[static_cast<std::size_t>(j * 4 * H + r)] = lstm.w[static_cast<std::size_t>(r * H + j)];
    }
  }
  Vast<float> a(4 * all), z(4 * all), h(2 * all), c(2 * all);
  const auto before = [](int64_t i) { return static_cast<float>(VastLstm::before(i)); };
  on_some_blocks(
      "recurrent_states",
      {a.reads([](int64_t i) { return static_cast<float>(VastLstm::a(i)); }), reads(w_t),
       reads(lstm.b),
       z.writes("z", [&](int64_t i, float got) { return near(got, lstm.z(i), 1e-5); }),
       h.updates("h", before,
                 [&](int64_t i, float got) { return near(got, lstm.h(i - all), 1e-5); }),
       c.updates("c", before,
                 [&](int64_t i, float got) { return near(got, lstm.c(i - all), 1e-5); })},
      [&] {
        return recurrent_states_cuda<float>(a.data(), w_t.data(), lstm.b.data(), z.data(), h.data(),
                                            c.data(), {1, 1, N, H, true, nullptr}, nullptr);
      });
  check(z.seen() > 0, "recurrent_states beyond 2^31");
}

// One step back with LRP-all: s = R_c / z_g, by more targets x samples than blocks.
void test_relprop() {
  constexpr int64_t H = 40, N = (int64_t{1} << 20) + 3, targets = 60, all = targets * N * H;
  const auto z_at = [](int64_t i) { return number_at(i + 1) + 0.125; };
  const auto c_at = [](int64_t i) { return number_at(i) + 0.125; };
  const std::vector<float> w(H * H, 0.0f), b(4 * H, 0.0f);
  Vast<float> z(4 * N * H), h(2 * N * H), c(2 * N * H), R(all), R_h(all), R_c(all), s(all);
  const auto good = [&](int64_t i, float got) {
    const int64_t row = i / H, j = i % H, n = row % N;
    const double R_out = number_at(i) + number_at(i + 2);  // of h: from above and from the step
    const double share = quotient(number_at(i + 4) + R_out, c_at((N + n) * H + j), 0.5);
    const double zi = z_at(n * 4 * H + j), zg = z_at(n * 4 * H + 2 * H + j);
    const double want = quotient(logistic(zi) * std::tanh(zg) * share, zg, 0.5);
    return near(got, want, 1e-5);
  };
  const auto any = [](int64_t, float got) { return !std::isnan(got); };
  on_some_blocks(
      "recurrent_relprop",
      {z.reads([&](int64_t i) { return static_cast<float>(z_at(i)); }), h.reads(Number<float>{}),
       c.reads([&](int64_t i) { return static_cast<float>(c_at(i)); }), reads(w), reads(b),
       R.reads(Number<float>{2}), R_h.updates("R_h", Number<float>{}, any),
       R_c.updates("R_c", Number<float>{4}, any), s.writes("s", good)},
      [&] {
        return recurrent_relprop_cuda<float>(
            z.data(), h.data(), c.data(), w.data(), b.data(), R.data(), R_h.data(), R_c.data(),
            s.data(), {targets, 1, N, H, true, nullptr}, GateRule::kAll, 0.5, nullptr);
      });
  check(s.seen() > 0, "recurrent_relprop beyond 2^31");
}

// ---- the LSTM path ----------------------------------------------------------------------------

// Two samples far behind the first: their gates start beyond 2^31.
void test_lstm_path() {
  using T = float;
  constexpr int64_t N = int64_t{1} << 27, H = 3, K = 5, n = N - 2;
  const LstmShape p{2, H, 1, K, 2};
  const int64_t rows = p.steps * p.gates();
  auto w = numbers<T>(p.gates() * H, 3);
  std::vector<T> w_t(static_cast<std::size_t>(p.padded() * p.gates()), T(0));
  for (int64_t r = 0; r < p.gates(); ++r) {
    for (int64_t j = 0; j < H; ++j) {
      w_t[static_cast<std::size_t>(j * p.gates() + r)] = w[static_cast<std::size_t>(r * H + j)];
    }
  }
  Vast<T> start(N * rows), change(N * rows), seed(N * H);
  Vast<double> alpha(N * K), weight(N * K), S(N * K), slope(N * K);
  Vast<int64_t> step(N);
  const LstmPath<T> path{start.data(), change.data(), w.data(),    w_t.data(),
                         alpha.data(), weight.data(), seed.data(), seed.data(),
                         step.data(),  N * K,         N * H,       N};
  // The same two samples by the CPU's kernel, from dense copies.
  Doubles want_S, want_slope;
  for (int64_t i = n; i < N; ++i) {
    std::vector<T> some_start, some_change, some_seed;
    Doubles some_alpha, some_weight, total(static_cast<std::size_t>(rows), 0.0), S_i(K), slope_i(K);
    for (int64_t e = 0; e < rows; ++e) {
      some_start.push_back(Number<T>{}(i * rows + e));
      some_change.push_back(Number<T>{1}(i * rows + e));
    }
    for (int64_t j = 0; j < H; ++j) some_seed.push_back(Number<T>{2}(i * H + j));
    for (int64_t k = 0; k < K; ++k) {
      some_alpha.push_back(number_at(i * K + k));
      some_weight.push_back(number_at(i * K + k + 3));
    }
    const int64_t last = 1;
    const LstmPath<T> one{some_start.data(),
                          some_change.data(),
                          w.data(),
                          w_t.data(),
                          some_alpha.data(),
                          some_weight.data(),
                          some_seed.data(),
                          some_seed.data(),
                          &last,
                          K,
                          H,
                          1};
    std::vector<T> work(static_cast<std::size_t>(lstm_path_work(p, kLanes<T>)));
    lstm_path(one, p, 0, K, work.data(), total.data(), S_i.data(), slope_i.data());
    want_S.insert(want_S.end(), S_i.begin(), S_i.end());
    want_slope.insert(want_slope.end(), slope_i.begin(), slope_i.end());
  }
  const LstmBatch<T> batch{path, p, false, 1, kCudaLanes};
  auto work = poison<T>(2 * lstm_path_work(p, kCudaLanes));
  auto slopes = poison<double>(2 * kCudaUnits * kCudaLanes);
  Doubles sums(static_cast<std::size_t>(2 * rows), 0.0);
  int seen = 0;
  const auto good = [&](const Doubles& want) {
    return [&](int64_t i, double got) {
      ++seen;
      return near(got, want[static_cast<std::size_t>(i - n * K)], 1e-4);
    };
  };
  const auto number = [](int64_t i) { return number_at(i); };
  on_device("lstm_path",
            {start.reads(Number<T>{}), change.reads(Number<T>{1}), reads(w), reads(w_t),
             alpha.reads(number), weight.reads([](int64_t i) { return number_at(i + 3); }),
             seed.reads(Number<T>{2}), step.reads([](int64_t) { return int64_t{1}; }),
             S.writes("S", good(want_S)), slope.writes("slope", good(want_slope)), writes(work),
             writes(slopes), updates(sums)},
            [&] {
              return lstm_path_cuda<T>(batch, n, 2, work.data(), slopes.data(), sums.data(),
                                       S.data(), slope.data(), nullptr);
            });
  check(seen == 4 * K && n * rows > k31, "lstm_path beyond 2^31");
}

// ---- regression -------------------------------------------------------------------------------

// One design, and more problems than CUDA has blocks, each with y = a multiple of the first
// feature.
void test_regression() {
  constexpr int64_t S = 5, M = 2, count = (int64_t{1} << 30) + 9;
  const DesignShape p{S, M, 0, false};
  const std::vector<double> X{1, 0, 0, 1, 1, 1, 2, 1, 1, 3}, weight(S, 1.0);
  auto design = poison<double>(factors_size(p));
  on_device("prepare", {reads(X), reads(weight), writes(design)}, [&] {
    const DesignInputs<double> inputs{X.data(), weight.data(), 0, 0};
    const auto error = prepare_cuda<double>(inputs, p, design.data(), factors_size(p), 1, nullptr);
    return error == cudaSuccess ? factorize_cuda(p, design.data(), 1, nullptr) : error;
  });
  Vast<double> y(count * S), work(count * solution_size(p)), coef(count * M), intercept(count);
  int64_t last = 0;
  on_some_blocks("solve",
                 {reads(design), y.reads([&](int64_t i) {
                    return number_at(i / S) * X[static_cast<std::size_t>(i % S * M)];
                  }),
                  work.writes("work", [](int64_t, double) { return true; }),
                  coef.writes("coef",
                              [&](int64_t i, double got) {
                                last = std::max(last, i / M);
                                return near(got, i % M == 0 ? number_at(i / M) : 0, 1e-12);
                              }),
                  intercept.writes("intercept", [](int64_t, double got) { return got == 0; })},
                 [&] {
                   return solve_cuda<double>(design.data(), 0, y.data(), p, work.data(),
                                             coef.data(), intercept.data(), count, nullptr);
                 });
  check(coef.seen() > 0 && last >= int64_t{1} << 30, "more problems than blocks");
}

// Designs whose numbers go beyond 2^31, and lasso problems on them.
void test_designs() {
  constexpr int64_t S = 3, M = 1;
  const DesignShape p{S, M, 0, false};
  const int64_t each = factors_size(p), count = k31 / each + 100;
  const auto x = [](int64_t i) { return number_at(i) + 3; };
  const auto any = [](int64_t, double) { return true; };
  Vast<double> X(count * S), designs(count * each);
  const std::vector<double> weight(S, 1.0);
  on_some_blocks("prepare", {X.reads(x), reads(weight), designs.writes("designs", any)}, [&] {
    const DesignInputs<double> inputs{X.data(), weight.data(), S, 0};
    return prepare_cuda<double>(inputs, p, designs.data(), each, count, nullptr);
  });
  check(designs.seen() > 0, "designs beyond 2^31");
}

}  // namespace
}  // namespace xaifast

int main() {
  using namespace xaifast;
  test_divide();
  test_products();
  test_sums();
  test_path();
  test_accumulate();
  test_noise();
  test_occlude();
  test_scatter();
  test_mask();
  test_segments();
  test_boxes();
  test_convs();
  test_states();
  test_relprop();
  test_lstm_path();
  test_regression();
  test_designs();
  const auto t = emulation::totals();
  std::printf("%zu cases beyond 2^31\n%d checks, %d failed\n", t.cases, checks, failures);
  return failures == 0 ? 0 : 1;
}
