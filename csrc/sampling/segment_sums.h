// Sums over the segments of each channel of each sample, in float64:
//   out[n, c, m] = sum of x[n, c, p] over the positions p with label(n, c, p) = m
//
// x [samples, channels, positions], or [samples, positions, channels] with channels_last
// labels [samples or 1, channels or 1, ...]   where the label of p is: labels.h; from a sample or
//                                             channel to the next it is so many numbers (0: shared)
// out [samples, channels, segments] of double   overwritten
//
// A label outside [0, segments) is left out. dtypes of x: float32, float64, bfloat16, float16.
// Deterministic: on the CPU positions are added in ascending order; a CUDA block adds those of a
// segment in an order that depends on their number alone. Empty: the sums are 0.
#pragma once

#include "sampling/labels.h"

namespace xaifast {

struct SegmentShape {
  std::int64_t samples;
  std::int64_t channels;
  std::int64_t positions;
  std::int64_t segments;
  bool channels_last;
  std::int64_t label_sample_step;
  std::int64_t label_channel_step;
  LabelMap map;

  XAI_HOST_DEVICE std::int64_t channel_step() const { return channels_last ? 1 : positions; }
  XAI_HOST_DEVICE std::int64_t position_step() const { return channels_last ? channels : 1; }
};

// A CPU task is a block of channels of one sample. Those that share their labels are summed
// together: so many independent additions at a time, and more where they are neighbours in memory.
inline std::int64_t segment_block(const SegmentShape& shape) {
  return shape.label_channel_step != 0 ? 1 : shape.channels_last ? 64 : 4;
}

inline std::int64_t segment_tasks(const SegmentShape& shape) {
  const std::int64_t block = segment_block(shape);
  return shape.samples * ((shape.channels + block - 1) / block);
}

// Tasks [begin, end) of segment_tasks(shape).
template <class T>
void segment_sums(const T* x, const std::int64_t* labels, double* out, const SegmentShape& shape,
                  std::int64_t begin, std::int64_t end);

}  // namespace xaifast
