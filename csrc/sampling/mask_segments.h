// Samples with some of their segments switched off, as LIME and its kin ask a model about them:
//   out[r, e] = x[n, e] if on[r, label(n, e)], else x'[n, e]         n = sample[r]
//
// x [samples, size], x' [baselines, size]
// labels [samples or 1, ...]     where the label of e is: labels.h; from a sample to the next it is
//                                label_step numbers (0: all have the same)
// on [rows, segments]            bytes, 0 is off
// sample [rows]
// out [rows, size]               overwritten; must not overlap x or x'
//
// A label outside [0, segments) is on. Numbers are copied bit by bit, as unsigned integers (Word)
// of their size: 16, 32 or 64 bits. Empty: nothing is written. Deterministic. A row whose sample is
// not there (sample[r] outside [0, samples)) is NaN on CUDA and not allowed on the CPU.
#pragma once

#include "sampling/labels.h"

namespace xaifast {

struct MaskShape {
  BatchShape batch;
  std::int64_t segments;
  std::int64_t label_step;
  LabelMap map;

  XAI_HOST_DEVICE bool is_on(const std::uint8_t* on, std::int64_t label) const {
    return label < 0 || label >= segments || on[label] != 0;
  }
};

// A CPU task is one row and some labels of a run: about kMaskTile positions, whose mask stays in
// the first cache. Labels of many neighbours are a task each.
inline constexpr std::int64_t kMaskTile = 4096;

inline std::int64_t mask_tile(const LabelMap& map) {
  return std::max<std::int64_t>(std::min(map.run, kMaskTile / map.width), 1);
}

inline std::int64_t mask_tasks(const MaskShape& shape) {
  const std::int64_t tile = mask_tile(shape.map);
  const std::int64_t tiles = shape.map.groups * ((shape.map.run + tile - 1) / tile);
  return shape.batch.size == 0 ? 0 : shape.batch.rows * tiles;
}

// Tasks [begin, end) of mask_tasks(shape).
template <class Word>
void mask_segments(const Word* x, const Word* baseline, const std::int64_t* labels,
                   const std::uint8_t* on, const std::int64_t* sample, Word* out,
                   const MaskShape& shape, std::int64_t begin, std::int64_t end);

}  // namespace xaifast
