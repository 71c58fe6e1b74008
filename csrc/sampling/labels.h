// Which segment each position of a sample belongs to. Labels may be fewer than positions: along an
// axis on which all share a label there is one, so that [1, H, W] is enough for [C, H, W]. In
// memory, positions are then
//   [repeat] [axis 0] [axis 1] ... [run] [width]
// with `run` labels side by side, each for `width` neighbours; the axes between tell apart groups
// of such runs, and all of that comes `repeat` times.
#pragma once

#include <cstdint>

#include "common/stabilizer.h"
#include "sampling/batch.h"

namespace xaifast {

struct LabelAxis {
  std::int64_t size;
  std::int64_t step;  // from a label to its neighbour along this axis; 0 where they share one
};

struct LabelMap {
  std::int64_t repeat;
  std::int64_t groups;  // the sizes of the axes, multiplied
  std::int64_t run;
  std::int64_t width;
  int axes;
  LabelAxis axis[kMaxAxes];

  XAI_HOST_DEVICE std::int64_t period() const { return groups * run * width; }

  // The first label of a group.
  XAI_HOST_DEVICE std::int64_t first(std::int64_t group) const {
    std::int64_t label = 0;
    for (int d = axes - 1; d >= 0 && group > 0; --d) {
      const std::int64_t rest = group / axis[d].size;
      label += (group - rest * axis[d].size) * axis[d].step;
      group = rest;
    }
    return label;
  }
};

// Walks over positions and knows where the label of each is.
class LabelCursor {
 public:
  XAI_HOST_DEVICE LabelCursor(const LabelMap& map, std::int64_t position) : map_(map) {
    go(position);
  }

  XAI_HOST_DEVICE std::int64_t label() const { return label_; }

  XAI_HOST_DEVICE void next() {
    ++position_;
    if (--neighbours_ > 0) return;
    if (--labels_ == 0) return go(position_);
    neighbours_ = map_.width;
    ++label_;
  }

 private:
  XAI_HOST_DEVICE void go(std::int64_t position) {
    position_ = position;
    const std::int64_t i = map_.repeat == 1 ? position : position % map_.period();
    const std::int64_t run = map_.width == 1 ? i : i / map_.width;
    const std::int64_t group = map_.groups == 1 ? 0 : run / map_.run;
    const std::int64_t at = run - group * map_.run;
    neighbours_ = map_.width - (i - run * map_.width);
    labels_ = map_.run - at;
    label_ = map_.first(group) + at;
  }

  const LabelMap& map_;
  std::int64_t position_;
  std::int64_t label_;
  std::int64_t labels_;      // left in this run, with this one
  std::int64_t neighbours_;  // left of this label, with this one
};

}  // namespace xaifast
