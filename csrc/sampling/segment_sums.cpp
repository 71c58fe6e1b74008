#include "sampling/segment_sums.h"

#include "common/clones.h"
#include "common/floats.h"

namespace xaifast {
namespace {

// From one segment to the next: the sums of segment `from` go back to memory, those of `to` come.
template <int kChannels>
inline void exchange(double (&sum)[kChannels], std::int64_t from, std::int64_t to, double* out,
                     std::int64_t segments) {
  for (int c = 0; c < kChannels; ++c) {
    if (from >= 0) out[c * segments + from] = sum[c];
    if (to >= 0) sum[c] = out[c * segments + to];
  }
}

// The sums of kChannels channels at once; x, out and labels start at the first. Neighbouring
// positions mostly belong to one segment, whose sums stay in registers for as long as that lasts.
template <int kChannels, bool kLast, class T>
XAI_CLONES void sum_channels(const T* __restrict x, const std::int64_t* __restrict labels,
                             double* __restrict out, const SegmentShape& shape) {
  const LabelMap& map = shape.map;
  const std::int64_t next = kLast ? 1 : shape.positions, step = kLast ? shape.channels : 1;
  double sum[kChannels] = {};
  std::int64_t held = -1;
  for (std::int64_t i = 0; i < map.repeat * map.groups; ++i) {
    const std::int64_t* run = labels + map.first(i % map.groups);
    for (std::int64_t k = 0; k < map.run; ++k) {
      const std::int64_t label = run[k] < 0 || run[k] >= shape.segments ? -1 : run[k];
      if (label != held) exchange(sum, held, label, out, shape.segments);
      held = label;
      for (std::int64_t w = 0; w < map.width; ++w, x += step) {
        for (int c = 0; c < kChannels; ++c) sum[c] += static_cast<double>(Compute<T>(x[c * next]));
      }
    }
  }
  exchange(sum, held, -1, out, shape.segments);
}

// The same for `count` channels, as many at once as there is code for; returns how many.
template <bool kLast, class T>
std::int64_t sum_some(const T* x, const std::int64_t* labels, double* out,
                      const SegmentShape& shape, std::int64_t count) {
  if constexpr (kLast) {
    if (count >= 16) return sum_channels<16, kLast>(x, labels, out, shape), 16;
  }
  if (count >= 4) return sum_channels<4, kLast>(x, labels, out, shape), 4;
  if (count >= 3) return sum_channels<3, kLast>(x, labels, out, shape), 3;
  return sum_channels<1, kLast>(x, labels, out, shape), 1;
}

}  // namespace

template <class T>
void segment_sums(const T* x, const std::int64_t* labels, double* out, const SegmentShape& shape,
                  std::int64_t begin, std::int64_t end) {
  const std::int64_t block = segment_block(shape);
  const std::int64_t blocks = (shape.channels + block - 1) / block;
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t n = task / blocks, first = task % blocks * block;
    const std::int64_t last = std::min(first + block, shape.channels);
    const T* xn = x + n * shape.channels * shape.positions;
    double* sums = out + n * shape.channels * shape.segments;
    std::fill(sums + first * shape.segments, sums + last * shape.segments, 0.0);
    for (std::int64_t c = first; c < last && shape.positions > 0;) {
      const T* xc = xn + c * shape.channel_step();
      const std::int64_t* l = labels + n * shape.label_sample_step + c * shape.label_channel_step;
      double* sum = sums + c * shape.segments;
      c += shape.channels_last ? sum_some<true>(xc, l, sum, shape, last - c)
                               : sum_some<false>(xc, l, sum, shape, last - c);
    }
  }
}

#define XAI_INSTANTIATE(T)                                                                   \
  template void segment_sums<T>(const T*, const std::int64_t*, double*, const SegmentShape&, \
                                std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(BFloat16)
XAI_INSTANTIATE(Float16)
#undef XAI_INSTANTIATE

}  // namespace xaifast
