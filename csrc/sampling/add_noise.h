// Gaussian noise on samples, the same for the same seed on every device, whatever the layout, the
// dtype and the batching:
//   out[r] = x[n] + std[n] z,   n = sample[r],   z[e] standard normal for element e of the sample
//
// z[e] is word e mod 4 of Philox4x32-10 with the key `seed` and the counter (e / 4, draw[r], n, 0),
// as a normal number (philox.h, normal.h). It is made in float32, so that a float64 model sees the
// noise that its float32 twin sees.
//
// x [samples, size], std [samples]
// sample [rows], draw [rows]     draw tells the rows of a sample apart
// out [rows, size]               overwritten; must not overlap x
// e counts a sample's elements as if it were contiguous. With channels > 1 (channels last) element
// e = c space + s is at s channels + c in memory, size = channels x space; else at e.
//
// samples, draw[r] < 2^32; size <= 2^34. dtypes: float32, float64, bfloat16, float16 (the latter
// two computed in float32). Empty: nothing is written. A row whose sample or draw is out of range
// is NaN on CUDA and not allowed on the CPU.
#pragma once

#include "sampling/batch.h"

namespace xaifast {

inline constexpr std::int64_t kMaxDraws = std::int64_t{1} << 32;
inline constexpr std::int64_t kMaxNoise = std::int64_t{1} << 34;

struct NoiseShape {
  BatchShape batch;
  std::int64_t channels;
  std::uint64_t seed;

  XAI_HOST_DEVICE std::int64_t space() const { return batch.size / channels; }
  XAI_HOST_DEVICE std::uint32_t key0() const { return static_cast<std::uint32_t>(seed); }
  XAI_HOST_DEVICE std::uint32_t key1() const { return static_cast<std::uint32_t>(seed >> 32); }
};

// A CPU task is one row and a block of positions in space, all channels of it: about kNoiseBlock
// numbers, which the way from random words to noise keeps in cache.
inline constexpr std::int64_t kNoiseBlock = 4096;

inline std::int64_t noise_block(const NoiseShape& shape) {
  const std::int64_t block = std::max<std::int64_t>(kNoiseBlock / shape.channels, 32);
  return std::max<std::int64_t>(std::min(block, shape.space()), 1);
}

inline std::int64_t noise_tasks(const NoiseShape& shape) {
  const std::int64_t block = noise_block(shape);
  return shape.batch.rows * ((shape.space() + block - 1) / block);
}

// Tasks [begin, end) of noise_tasks(shape).
template <class T>
void add_noise(const T* x, const std::int64_t* sample, const std::int64_t* draw, const double* std,
               T* out, const NoiseShape& shape, std::int64_t begin, std::int64_t end);

}  // namespace xaifast
