// One sum of segment_sums (contract: segment_sums.h), as the threads of a CUDA block make it: each
// lane adds every kSegmentLanes-th position of the segment, then the lanes are added in pairs. The
// positions of a segment come from labels that were sorted before:
//   order [label rows, positions]       positions, those of a segment side by side and ascending
//   ends [label rows, segments + 1]     where in `order` the positions of each segment start
// There is a label row for each sample and channel, or less where they share their labels; from a
// sample or channel to the next it is so many of them.
#pragma once

#include "common/pack.h"
#include "sampling/segment_sums.h"

namespace xaifast {

inline constexpr int kSegmentLanes = 128;

template <class T>
struct SegmentElement {
  const T* x;
  const std::int64_t* order;
  const std::int64_t* ends;
  double* out;
  SegmentShape shape;
  std::int64_t row_sample_step;
  std::int64_t row_channel_step;

  XAI_HOST_DEVICE std::int64_t size() const {
    return shape.samples * shape.channels * shape.segments;
  }

  // What one lane adds to sum o, counted as in `out`.
  XAI_HOST_DEVICE double partial(std::int64_t o, int lane) const {
    const std::int64_t nc = o / shape.segments, m = o - nc * shape.segments;
    const std::int64_t n = nc / shape.channels, c = nc - n * shape.channels;
    const std::int64_t row = n * row_sample_step + c * row_channel_step;
    const T* xc = x + n * shape.channels * shape.positions + c * shape.channel_step();
    const std::int64_t* at = order + row * shape.positions;
    const std::int64_t* end = ends + row * (shape.segments + 1) + m;
    double sum = 0;
    for (std::int64_t i = end[0] + lane; i < end[1]; i += kSegmentLanes) {
      sum += static_cast<double>(widen<T>(xc[at[i] * shape.position_step()]));
    }
    return sum;
  }
};

}  // namespace xaifast
