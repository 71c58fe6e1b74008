// One step of add_noise (contract: add_noise.h), as a CUDA thread does it; see common/grid.h. Rows
// are the targets. A thread owns a group of four consecutive elements, which one call of the
// generator makes; with channels last, it owns of such a group what belongs to one channel, and
// neighbouring threads have neighbouring channels, because those are neighbours in memory.
#pragma once

#include "common/pack.h"
#include "sampling/add_noise.h"
#include "sampling/normal.h"
#include "sampling/philox.h"

namespace xaifast {

// kPacks: whole groups, each read and written at once.
template <class T, bool kPacks>
struct NoiseElement {
  using C = Compute<T>;
  static constexpr int kResident = 4;
  static constexpr int kGroup = 4;
  const T* x;
  const std::int64_t* sample;
  const std::int64_t* draw;
  const double* std;
  T* out;
  NoiseShape shape;

  // What a thread owns: numbers [begin, end) of a group, the first of which would be at x[at].
  struct Share {
    std::int64_t group;
    std::int64_t at;
    int begin, end;
  };

  // Groups that may hold elements of one channel: it need not start at the start of a group.
  XAI_HOST_DEVICE std::int64_t groups() const {
    return (shape.space() + (shape.channels == 1 ? 0 : kGroup - 1) + kGroup - 1) / kGroup;
  }
  XAI_HOST_DEVICE std::int64_t size() const {
    return shape.batch.size == 0 ? 0 : groups() * shape.channels;
  }
  XAI_HOST_DEVICE std::int64_t targets() const { return shape.batch.rows; }

  XAI_HOST_DEVICE Share share(std::int64_t i) const {
    const std::int64_t j = shape.channels == 1 ? i : i / shape.channels;
    const std::int64_t c = i - j * shape.channels;
    const std::int64_t first = c * shape.space();  // element of the channel
    const std::int64_t group = first / kGroup + j;
    const std::int64_t s = group * kGroup - first;  // position in space of the group's first
    const std::int64_t rest = shape.space() - s;
    return {group, s * shape.channels + c, s < 0 ? static_cast<int>(-s) : 0,
            rest < kGroup ? static_cast<int>(rest) : kGroup};
  }

  // The group's four numbers for row r; NaN where there is no such sample or draw.
  XAI_HOST_DEVICE void normals(std::int64_t group, std::int64_t r, C (&z)[kGroup]) const {
    const bool good = shape.batch.has(sample[r]) && draw[r] >= 0 && draw[r] < kMaxDraws;
    const auto w = philox(Philox<std::uint32_t>{static_cast<std::uint32_t>(group),
                                                static_cast<std::uint32_t>(draw[r]),
                                                static_cast<std::uint32_t>(sample[r]), 0},
                          shape.key0(), shape.key1());
    const std::uint32_t words[kGroup] = {w.c0, w.c1, w.c2, w.c3};
    for (int k = 0; k < kGroup; ++k) z[k] = good ? C(standard_normal(words[k])) : kNotANumber<C>;
  }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t i, std::int64_t r, std::int64_t step) const {
    static_assert(W == 1);
    const Share mine = share(i);
    XAI_NO_UNROLL
    for (; r < shape.batch.rows; r += step) {
      const std::int64_t n = shape.batch.has(sample[r]) ? sample[r] : 0;
      const T* xs = x + shape.batch.at(n) + mine.at;
      T* outs = out + r * shape.batch.size + mine.at;
      const C scale = static_cast<C>(std[n]);
      C z[kGroup], y[kGroup];
      normals(mine.group, r, z);
      if constexpr (kPacks) {
        load<kGroup>(xs, y);
        for (int k = 0; k < kGroup; ++k) y[k] += rounded_product(scale, z[k]);
        store<kGroup>(outs, y);
      } else {
        for (int k = 0; k < kGroup; ++k) {
          if (k < mine.begin || k >= mine.end) continue;
          const std::int64_t at = k * shape.channels;
          outs[at] = narrow<T>(widen<T>(xs[at]) + rounded_product(scale, z[k]));
        }
      }
    }
  }
};

// Whether groups are packs in memory.
template <class T>
bool noise_packs(const T* x, const T* out, const NoiseShape& shape) {
  constexpr std::size_t kBytes = 4 * sizeof(T);
  return shape.channels == 1 && shape.batch.size % 4 == 0 &&
         reinterpret_cast<std::uintptr_t>(x) % kBytes == 0 &&
         reinterpret_cast<std::uintptr_t>(out) % kBytes == 0;
}

}  // namespace xaifast
