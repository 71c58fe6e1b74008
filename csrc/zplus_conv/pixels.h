// Both products of conv.h for a first layer: one group and at most kPixelChannels channels, which
// would leave most of a matrix product's tile empty. Every rule, always as two terms.
//   first product    a thread computes kUnits results of one output position
//   second product   a thread computes all channels of one input position; a block has a rectangle
//                    of them, and the outputs that meet it pass through shared memory once
// Weights are clamped on their way to shared memory, kTaps taps at a time. The Team is that of
// tile.h, with each and sync alone.
#pragma once

#include "zplus_conv/epilogue.h"
#include "zplus_conv/gather.h"

namespace xaifast {

struct PixelTraits {
  static constexpr int kThreads = 128;
  static constexpr int kTile[2] = {8, 16};  // input positions of a block
  static constexpr int kUnits = 16, kTaps = 16;
  static constexpr int kPitch = kUnits + 4;  // positions of s start in different banks
};

struct alignas(16) PixelWeights {  // v_p, zero where there is no such tap, unit or channel
  float v[PixelTraits::kTaps][PixelTraits::kUnits][2][kPixelChannels];
};

struct PixelDivideRegisters {
  float z[PixelTraits::kUnits];
};
struct PixelMultiplyRegisters {
  float c[2][kPixelChannels];
};

template <class T, class Team>
struct PixelBlock {
  using K = PixelTraits;
  static constexpr int kTileOf0 = K::kTile[0], kTileOf1 = K::kTile[1];
  Team& team;
  const ConvShape& p;
  const ConvTensors<T>& x;
  PixelWeights& weights;

  // The weights of taps [tap, tap + kTaps) and units [unit, unit + kUnits).
  XAI_HOST_DEVICE void load_weights(std::int64_t tap, std::int64_t unit) const {
    team.each([&](int thread, auto&) {
      constexpr int kNumbers = K::kTaps * K::kUnits * kPixelChannels;
      XAI_NO_UNROLL
      for (int i = thread; i < kNumbers; i += K::kThreads) {
        const int k = i % K::kUnits, c = i / K::kUnits % kPixelChannels;
        const int q = i / K::kUnits / kPixelChannels;
        const bool there = tap + q < p.taps() && unit + k < p.units && c < p.channels;
        const float w =
            there ? widen<T>(x.w_t[(c * p.taps() + tap + q) * p.units + unit + k]) : 0.0f;
        weights.v[q][k][0][c] = weight_term(p.rule, 0, w);
        weights.v[q][k][1][c] = p.terms() == 2 ? weight_term(p.rule, 1, w) : 0.0f;
      }
    });
  }

  // ---- z of kThreads output positions and kUnits units, and s

  XAI_HOST_DEVICE void divide(std::int64_t block, std::int64_t unit, double eps) const {
    team.each([](int, auto& r) {
      for (int k = 0; k < K::kUnits; ++k) r.z[k] = 0;
    });
    XAI_NO_UNROLL
    for (std::int64_t tap = 0; tap < p.taps(); tap += K::kTaps) {
      team.sync();
      load_weights(tap, unit);
      team.sync();
      team.each([&](int thread, auto& r) {
        add_taps(static_cast<int>(block) * K::kThreads + thread, static_cast<int>(tap), r.z);
      });
    }
    team.each([&](int thread, auto& r) {
      const std::int64_t position = block * K::kThreads + thread;
      if (position >= p.batch * p.out[0] * p.out[1]) return;
      if (p.units % kPackWidth<T> == 0 && start_packs(x.R, x.b, x.s)) {
        finish<kPackWidth<T>>(position, unit, r.z, eps);
      } else {
        finish<1>(position, unit, r.z, eps);
      }
    });
  }

  // The units of a thread, W at a time.
  template <int W>
  XAI_HOST_DEVICE void finish(std::int64_t position, std::int64_t unit,
                              const float (&sums)[K::kUnits], double eps) const {
    const auto epilogue = divide_epilogue(p, x, eps);
    XAI_UNROLL(K::kUnits / W)
    for (int k = 0; k < K::kUnits; k += W) {
      float z[1][W];
      for (int w = 0; w < W; ++w) z[0][w] = sums[k + w];
      if (unit + k < p.units) epilogue(position, unit + k, z);
    }
  }

  XAI_HOST_DEVICE void add_taps(int position, int tap, float (&z)[K::kUnits]) const {
    const int out0 = static_cast<int>(p.out[0]), out1 = static_cast<int>(p.out[1]);
    const int width = static_cast<int>(p.kernel[1]), channels = static_cast<int>(p.channels);
    const int row = position / out1, n = row / out0;
    if (n >= p.batch) return;
    const int start0 =
        (row - n * out0) * static_cast<int>(p.stride[0]) - static_cast<int>(p.padding[0]);
    const int start1 =
        (position - row * out1) * static_cast<int>(p.stride[1]) - static_cast<int>(p.padding[1]);
    XAI_NO_UNROLL
    for (int q = 0; q < K::kTaps && tap + q < p.taps(); ++q) {
      const int k0 = (tap + q) / width, k1 = tap + q - k0 * width;
      const int i0 = start0 + k0 * static_cast<int>(p.dilation[0]);
      const int i1 = start1 + k1 * static_cast<int>(p.dilation[1]);
      if (i0 < 0 || i0 >= p.in[0] || i1 < 0 || i1 >= p.in[1]) continue;
      const T* a = x.a + ((n * p.in[0] + i0) * p.in[1] + i1) * channels;
      XAI_NO_UNROLL
      for (int c = 0; c < channels; ++c) {
        const float ac = widen<T>(a[c]);
        const float u0 = input_term(p, 0, c, ac), u1 = input_term(p, 1, c, ac);
        XAI_UNROLL(K::kUnits)
        for (int k = 0; k < K::kUnits; ++k) {
          z[k] += u0 * weights.v[q][k][0][c] + u1 * weights.v[q][k][1][c];
        }
      }
    }
  }

  // ---- c of a rectangle of input positions, and R

  // Outputs that meet a rectangle, along one axis: the first one, and at most how many.
  XAI_HOST_DEVICE static std::int64_t outputs_met(const ConvShape& p, int d) {
    const int tile = d == 0 ? kTileOf0 : kTileOf1;
    return (tile - 1 + (p.kernel[d] - 1) * p.dilation[d]) / p.stride[d] + 1;
  }
  XAI_HOST_DEVICE std::int64_t first_output(int d, std::int64_t i) const {
    const std::int64_t low = i + p.padding[d] - (p.kernel[d] - 1) * p.dilation[d];
    return low > 0 ? (low + p.stride[d] - 1) / p.stride[d] : -(-low / p.stride[d]);
  }

  // s_near [outputs_met(0), outputs_met(1), kPitch]
  XAI_HOST_DEVICE void multiply(std::int64_t image, std::int64_t i0, std::int64_t i1,
                                float* s_near) const {
    team.each([](int, auto& r) {
      for (int c = 0; c < kPixelChannels; ++c) r.c[0][c] = r.c[1][c] = 0;
    });
    const std::int64_t o0 = first_output(0, i0), o1 = first_output(1, i1);
    XAI_NO_UNROLL
    for (std::int64_t unit = 0; unit < p.units; unit += K::kUnits) {
      XAI_NO_UNROLL
      for (std::int64_t tap = 0; tap < p.taps(); tap += K::kTaps) {
        team.sync();
        if (tap == 0) load_outputs(image, o0, o1, unit, s_near);
        load_weights(tap, unit);
        team.sync();
        team.each([&](int thread, auto& r) {
          push_taps(i0 + thread / kTileOf1, i1 + thread % kTileOf1, o0, o1, tap, s_near, r.c);
        });
      }
    }
    team.each([&](int thread, auto& r) {
      const std::int64_t j0 = i0 + thread / kTileOf1, j1 = i1 + thread % kTileOf1;
      if (j0 >= p.in[0] || j1 >= p.in[1]) return;
      const auto epilogue = multiply_epilogue<2>(p, x);
      XAI_UNROLL(kPixelChannels)
      for (int c = 0; c < kPixelChannels; ++c) {
        const float both[2][1] = {{r.c[0][c]}, {r.c[1][c]}};
        if (c < p.channels) epilogue((image * p.in[0] + j0) * p.in[1] + j1, c, both);
      }
    });
  }

  XAI_HOST_DEVICE void load_outputs(std::int64_t image, std::int64_t o0, std::int64_t o1,
                                    std::int64_t unit, float* s_near) const {
    team.each([&](int thread, auto&) {
      const int width = static_cast<int>(outputs_met(p, 1));
      const int numbers = static_cast<int>(outputs_met(p, 0)) * width * K::kUnits;
      XAI_NO_UNROLL
      for (int i = thread; i < numbers; i += K::kThreads) {
        const int k = i % K::kUnits, at = i / K::kUnits;
        const std::int64_t y0 = o0 + at / width, y1 = o1 + at % width;
        const bool there = y0 >= 0 && y0 < p.out[0] && y1 >= 0 && y1 < p.out[1];
        float s = 0;
        if (there && unit + k < p.units) {
          s = widen<T>(x.s[((image * p.out[0] + y0) * p.out[1] + y1) * p.units + unit + k]);
        }
        s_near[at * K::kPitch + k] = s;
      }
    });
  }

  XAI_HOST_DEVICE void push_taps(std::int64_t i0, std::int64_t i1, std::int64_t o0, std::int64_t o1,
                                 std::int64_t tap, const float* s_near,
                                 float (&c)[2][kPixelChannels]) const {
    const int width = static_cast<int>(outputs_met(p, 1));
    const int stride0 = static_cast<int>(p.stride[0]), stride1 = static_cast<int>(p.stride[1]);
    // Distances from the first output that is near: small, and never negative.
    const int start0 = static_cast<int>(i0 + p.padding[0] - o0 * p.stride[0]);
    const int start1 = static_cast<int>(i1 + p.padding[1] - o1 * p.stride[1]);
    XAI_NO_UNROLL
    for (int q = 0; q < K::kTaps && tap + q < p.taps(); ++q) {
      const int number = static_cast<int>(tap) + q, k0 = number / static_cast<int>(p.kernel[1]);
      const int k1 = number - k0 * static_cast<int>(p.kernel[1]);
      const int d0 = start0 - k0 * static_cast<int>(p.dilation[0]);
      const int d1 = start1 - k1 * static_cast<int>(p.dilation[1]);
      const int y0 = d0 / stride0, y1 = d1 / stride1;
      if (d0 < 0 || d1 < 0 || y0 * stride0 != d0 || y1 * stride1 != d1) continue;
      const float* s = s_near + (y0 * width + y1) * K::kPitch;
      XAI_UNROLL(K::kUnits / 4)
      for (int k = 0; k < K::kUnits; k += 4) {
        const auto pack = load_pack<4>(s + k);
        XAI_UNROLL(4)
        for (int e = 0; e < 4; ++e) {
          XAI_UNROLL(kPixelChannels)
          for (int j = 0; j < kPixelChannels; ++j) {
            c[0][j] += weights.v[q][k + e][0][j] * pack.v[e];
            c[1][j] += weights.v[q][k + e][1][j] * pack.v[e];
          }
        }
      }
    }
  }
};

struct PixelGrid {
  std::int64_t outputs, units;    // blocks of the first product
  std::int64_t images, tiles[2];  // blocks of the second
  std::int64_t near_bytes;        // of s_near
};

inline PixelGrid pixel_grid(const ConvShape& p) {
  using K = PixelTraits;
  using Block = PixelBlock<float, int>;
  const auto parts = [](std::int64_t n, std::int64_t part) { return (n + part - 1) / part; };
  return {parts(p.batch * p.out[0] * p.out[1], K::kThreads),
          parts(p.units, K::kUnits),
          p.targets * p.batch,
          {parts(p.in[0], K::kTile[0]), parts(p.in[1], K::kTile[1])},
          Block::outputs_met(p, 0) * Block::outputs_met(p, 1) * K::kPitch *
              static_cast<std::int64_t>(sizeof(float))};
}

// Whether s_near fits beside the weights in 48 KiB, and blocks into a grid.
inline bool pixels_fit(const ConvShape& p) {
  if (p.groups != 1 || p.channels > kPixelChannels || !fits_tiles(p)) return false;
  const PixelGrid grid = pixel_grid(p);
  const auto room = std::int64_t{48 * 1024} - static_cast<std::int64_t>(sizeof(PixelWeights));
  return grid.near_bytes <= room && grid.units <= 65535 &&
         grid.images * grid.tiles[0] * grid.tiles[1] < (std::int64_t{1} << 31);
}

}  // namespace xaifast
