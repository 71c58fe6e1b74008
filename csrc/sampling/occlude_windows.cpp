#include "sampling/occlude_windows.h"

#include <cstring>

namespace xaifast {
namespace {

// Numbers [begin, end) of an axis, each of which has `inner` numbers of memory behind it.
struct Range {
  std::int64_t begin, end, inner;
};

// What window k covers of each axis.
void find_window(const Windows& w, std::int64_t k, Range (&range)[kMaxAxes]) {
  std::int64_t inner = 1;
  for (int d = w.axes - 1; d >= 0; --d) {
    const WindowAxis& a = w.axis[d];
    const std::int64_t begin = std::min(k / a.step % a.positions * a.stride, a.size);
    range[d] = {begin, std::min(begin + a.window, a.size), inner};
    inner *= a.size;
  }
}

// out = b on the numbers inside of `axes` ranges.
template <class Word>
void cover(const Range* range, int axes, const Word* b, Word* out) {
  const std::int64_t n = range->end - range->begin;
  if (axes == 1) {
    if (n > 0) std::memcpy(out + range->begin, b + range->begin, n * sizeof(Word));
    return;
  }
  for (std::int64_t i = range->begin; i < range->end; ++i) {
    cover(range + 1, axes - 1, b + i * range->inner, out + i * range->inner);
  }
}

}  // namespace

template <class Word>
void occlude_windows(const Word* x, const Word* baseline, Word* out, const OccludeShape& shape,
                     std::int64_t begin, std::int64_t end) {
  const BatchShape& batch = shape.batch;
  if (batch.size == 0) return;
  Range range[kMaxAxes];
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t n = r % batch.samples;
    Word* row = out + r * batch.size;
    std::memcpy(row, x + batch.at(n), batch.size * sizeof(Word));
    find_window(shape.windows, shape.first + r / batch.samples, range);
    cover(range, shape.windows.axes, baseline + batch.baseline_at(n), row);
  }
}

#define XAI_INSTANTIATE(Word)                                                               \
  template void occlude_windows<Word>(const Word*, const Word*, Word*, const OccludeShape&, \
                                      std::int64_t, std::int64_t);
XAI_INSTANTIATE(std::uint16_t)
XAI_INSTANTIATE(std::uint32_t)
XAI_INSTANTIATE(std::uint64_t)
#undef XAI_INSTANTIATE

}  // namespace xaifast
