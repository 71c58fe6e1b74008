// Both products of conv.h are one gather: result i is a sum over taps q of what lies at source
// positions that move with i by a fixed step. Along an axis, result number p of a class is at
// origin + p spread, and tap q of it is
//   kernel position  first_tap + q tap_step
//   source position  p step + offset + q tap_offset,  a zero outside of [0, size)
// The first product has one class. The second has a class for each residue of the stride: the
// inputs of a class are met by the same taps, so that no tap is tried in vain.
#pragma once

#include <cstdint>

#include "zplus_conv/conv.h"

namespace xaifast {

struct GatherAxis {
  int count, origin, spread;
  int taps, first_tap, tap_step;
  int step, offset, tap_offset, size;
};

XAI_HOST_DEVICE inline GatherAxis forward_axis(const ConvShape& p, int d) {
  return {static_cast<int>(p.out[d]),
          0,
          1,
          static_cast<int>(p.kernel[d]),
          0,
          1,
          static_cast<int>(p.stride[d]),
          -static_cast<int>(p.padding[d]),
          static_cast<int>(p.dilation[d]),
          static_cast<int>(p.in[d])};
}

XAI_HOST_DEVICE inline int greatest_divisor(int a, int b) {
  while (b != 0) {
    const int rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// Output o meets input i at tap k where o stride = i + padding - k dilation.
XAI_HOST_DEVICE inline GatherAxis backward_axis(const ConvShape& p, int d, int residue) {
  const int stride = static_cast<int>(p.stride[d]), dilation = static_cast<int>(p.dilation[d]);
  const int kernel = static_cast<int>(p.kernel[d]), in = static_cast<int>(p.in[d]);
  const int divisor = greatest_divisor(stride, dilation), period = stride / divisor;
  const int start = residue + static_cast<int>(p.padding[d]);
  int k = 0;
  while (k < period && k < kernel && (start - k * dilation) % stride != 0) ++k;
  const bool none = k >= period || k >= kernel;
  return {residue < in ? (in - residue + stride - 1) / stride : 0,
          residue,
          stride,
          none ? 0 : (kernel - k + period - 1) / period,
          k,
          period,
          1,
          none ? 0 : (start - k * dilation) / stride,
          -dilation / divisor,
          static_cast<int>(p.out[d])};
}

// One class of a product for one group: rows are results, columns their channels.
struct Gather {
  GatherAxis axis[2];
  int rows;      // images x positions of this class
  int columns;   // channels of a result, in the group
  int depth;     // channels of a source, in the group
  int stride;    // channels of a source, in all groups
  int taps;      // of this class
  int all_taps;  // of the kernel

  XAI_HOST_DEVICE Gather(const ConvShape& p, bool back, int number) {
    for (int d = 1; d >= 0; --d) {
      const int classes = static_cast<int>(p.stride[d]);
      axis[d] = back ? backward_axis(p, d, number % classes) : forward_axis(p, d);
      number /= classes;
    }
    const std::int64_t images = back ? p.targets * p.batch : p.batch;
    rows = static_cast<int>(images) * axis[0].count * axis[1].count;
    columns = static_cast<int>(back ? p.channels : p.units);
    depth = static_cast<int>(back ? p.units : p.channels);
    stride = static_cast<int>(p.groups) * depth;
    taps = axis[0].taps * axis[1].taps;
    all_taps = static_cast<int>(p.taps());
  }

  XAI_HOST_DEVICE int kernel_position(int tap, const ConvShape& p) const {
    const int i = tap / axis[1].taps, j = tap - i * axis[1].taps;
    return (axis[0].first_tap + i * axis[0].tap_step) * static_cast<int>(p.kernel[1]) +
           axis[1].first_tap + j * axis[1].tap_step;
  }
};

inline int classes_of(const ConvShape& p, bool back) {
  return back ? static_cast<int>(p.stride[0] * p.stride[1]) : 1;
}

// What one row is.
struct GatherRow {
  int image, start[2];    // sources are at start + tap_offset of the axes
  std::int64_t position;  // of the result among those of all images

  XAI_HOST_DEVICE GatherRow(const Gather& g, const std::int64_t (&size)[2], int row) {
    const int i = row / g.axis[1].count, p1 = row - i * g.axis[1].count;
    image = i / g.axis[0].count;
    const int p0 = i - image * g.axis[0].count;
    start[0] = p0 * g.axis[0].step + g.axis[0].offset;
    start[1] = p1 * g.axis[1].step + g.axis[1].offset;
    position = (image * size[0] + g.axis[0].origin + p0 * g.axis[0].spread) * size[1] +
               g.axis[1].origin + p1 * g.axis[1].spread;
  }
};

// Numbers that the kernels count in 32 bits; channels and images may be many, a product of them
// not. Tiles of columns, and groups x classes, are blocks along y and z of a grid.
inline bool fits_tiles(const ConvShape& p) {
  constexpr std::int64_t kMost = std::int64_t{1} << 30, kMostBlocks = 65535, kColumns = 64;
  const auto small = [](const std::int64_t (&x)[2]) {
    return x[0] < (1 << 20) && x[1] < (1 << 20) && x[0] * x[1] < kMost;
  };
  return small(p.in) && small(p.out) && small(p.kernel) && small(p.stride) && small(p.padding) &&
         small(p.dilation) && p.kernel[0] * p.dilation[0] < (1 << 20) &&
         p.kernel[1] * p.dilation[1] < (1 << 20) && p.stride[0] * p.stride[1] < (1 << 10) &&
         p.groups * p.channels < (1 << 24) && p.groups * p.units < (1 << 24) &&
         p.groups * p.stride[0] * p.stride[1] <= kMostBlocks &&
         p.channels <= kMostBlocks * kColumns && p.units <= kMostBlocks * kColumns &&
         p.targets * p.batch < kMost && p.targets * p.batch * p.in[0] * p.in[1] < kMost &&
         p.targets * p.batch * p.out[0] * p.out[1] < kMost;
}

}  // namespace xaifast
