#include "sampling/mask_segments.h"

#include <cstring>

#include "common/clones.h"

namespace xaifast {
namespace {

// Labels of this many neighbours are copied one by one.
constexpr std::int64_t kWide = 64;

template <class Word>
XAI_CLONES void choose(const std::uint8_t* __restrict mask, const Word* x, const Word* b,
                       Word* __restrict out, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) out[i] = mask[i] != 0 ? x[i] : b[i];
}

// The same for `count` runs of `width` positions.
template <class Word>
void copy_runs(const std::uint8_t* mask, std::int64_t width, const Word* x, const Word* b,
               Word* out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const Word* from = mask[i] != 0 ? x : b;
    std::memcpy(out + i * width, from + i * width, width * sizeof(Word));
  }
}

// mask[i] = whether label i is on, without branches: segments are met in any order.
void find_on(const MaskShape& shape, const std::int64_t* labels, const std::uint8_t* on,
             std::int64_t count, std::uint8_t* __restrict mask) {
  if (shape.segments == 0) std::fill(mask, mask + count, std::uint8_t{1});
  for (std::int64_t i = 0; i < count && shape.segments > 0; ++i) {
    const bool known = labels[i] >= 0 && labels[i] < shape.segments;
    mask[i] = on[known ? labels[i] : 0] | static_cast<std::uint8_t>(!known);
  }
}

// The same with each label for `width` positions. Eight are written at once, beyond the last one
// too: mask has room for that.
void widen_mask(const std::uint8_t* __restrict narrow, std::int64_t width, std::int64_t count,
                std::uint8_t* __restrict mask) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t eight = narrow[i] != 0 ? 0x0101010101010101u : 0;
    for (std::int64_t w = 0; w < width; w += 8) std::memcpy(mask + i * width + w, &eight, 8);
  }
}

}  // namespace

template <class Word>
void mask_segments(const Word* x, const Word* baseline, const std::int64_t* labels,
                   const std::uint8_t* on, const std::int64_t* sample, Word* out,
                   const MaskShape& shape, std::int64_t begin, std::int64_t end) {
  const LabelMap& map = shape.map;
  const std::int64_t tile = mask_tile(map);
  const std::int64_t tiles = (map.run + tile - 1) / tile;
  const std::int64_t step = map.period();
  std::uint8_t narrow[kMaskTile], wide[kMaskTile + 8];
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t group = task / tiles % map.groups, r = task / tiles / map.groups;
    const std::int64_t n = sample[r];
    const std::int64_t first = task % tiles * tile;
    const std::int64_t count = std::min(tile, map.run - first);
    const std::int64_t at = (group * map.run + first) * map.width;
    const Word* xr = x + shape.batch.at(n) + at;
    const Word* br = baseline + shape.batch.baseline_at(n) + at;
    const std::int64_t* label = labels + n * shape.label_step + map.first(group) + first;
    Word* outr = out + r * shape.batch.size + at;
    find_on(shape, label, on + r * shape.segments, count, narrow);
    if (map.width > 1 && map.width < kWide) widen_mask(narrow, map.width, count, wide);
    for (std::int64_t i = 0; i < map.repeat; ++i, xr += step, br += step, outr += step) {
      if (map.width < kWide) {
        choose(map.width == 1 ? narrow : wide, xr, br, outr, count * map.width);
      } else {
        copy_runs(narrow, map.width, xr, br, outr, count);
      }
    }
  }
}

#define XAI_INSTANTIATE(Word)                                                        \
  template void mask_segments<Word>(const Word*, const Word*, const std::int64_t*,   \
                                    const std::uint8_t*, const std::int64_t*, Word*, \
                                    const MaskShape&, std::int64_t, std::int64_t);
XAI_INSTANTIATE(std::uint16_t)
XAI_INSTANTIATE(std::uint32_t)
XAI_INSTANTIATE(std::uint64_t)
#undef XAI_INSTANTIATE

}  // namespace xaifast
