// Samples with one window hidden, as occlusion asks a model about them:
//   out[k, n] = x[n], but x'[n] inside of window first + k          (windows.h)
//
// x [samples, size], x' [baselines, size]
// out [count, samples, size]     overwritten; must not overlap x or x'
//
// Numbers are copied bit by bit, as unsigned integers (Word) of their size: 16, 32 or 64 bits.
// Empty: nothing is written. Deterministic.
#pragma once

#include "sampling/batch.h"
#include "sampling/windows.h"

namespace xaifast {

struct OccludeShape {
  BatchShape batch;  // rows = count x samples, row k samples + n
  std::int64_t first;
  Windows windows;
};

// Rows [begin, end) of shape.batch.rows.
template <class Word>
void occlude_windows(const Word* x, const Word* baseline, Word* out, const OccludeShape& shape,
                     std::int64_t begin, std::int64_t end);

}  // namespace xaifast
