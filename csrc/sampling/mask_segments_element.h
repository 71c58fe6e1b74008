// One step of mask_segments (contract: mask_segments.h), as a CUDA thread does it; see
// common/grid.h. Rows are the targets: a thread keeps the numbers and labels of a sample for as
// long as the rows that it visits belong to it.
#pragma once

#include "common/pack.h"
#include "sampling/mask_segments.h"

namespace xaifast {

template <class Word>
struct MaskElement {
  static constexpr int kResident = sizeof(Word) == 2 ? 3 : 4;  // no spills
  const Word* x;
  const Word* baseline;
  const std::int64_t* labels;
  const std::uint8_t* on;
  const std::int64_t* sample;
  Word* out;
  MaskShape shape;

  // All bits of a number: NaN in every floating type.
  static constexpr Word kNone = static_cast<Word>(~Word{0});

  XAI_HOST_DEVICE std::int64_t size() const { return shape.batch.size; }
  XAI_HOST_DEVICE std::int64_t targets() const { return shape.batch.rows; }
  bool packs() const {
    return shape.batch.size % kPackWidth<Word> == 0 && start_packs(x, baseline, out);
  }

  template <int W>
  struct Held {
    Pack<Word, W> x, baseline;
    std::int64_t label[W];
  };

  template <int W>
  XAI_HOST_DEVICE Held<W> hold(std::int64_t n, std::int64_t e) const {
    Held<W> h = {};
    if (!shape.batch.has(n)) {
      for (int w = 0; w < W; ++w) {
        h.x.v[w] = h.baseline.v[w] = kNone;
        h.label[w] = -1;
      }
      return h;
    }
    h.x = load_pack<W>(x + shape.batch.at(n) + e);
    h.baseline = load_pack<W>(baseline + shape.batch.baseline_at(n) + e);
    LabelCursor cursor(shape.map, e);
    for (int w = 0; w < W; ++w) {
      h.label[w] = labels[n * shape.label_step + cursor.label()];
      if (w + 1 < W) cursor.next();
    }
    return h;
  }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t e, std::int64_t r, std::int64_t step) const {
    Held<W> h = {};
    std::int64_t held = -1;
    XAI_NO_UNROLL
    for (; r < shape.batch.rows; r += step) {
      const std::int64_t n = shape.batch.or_none(sample[r]);
      if (n != held) h = hold<W>(held = n, e);
      Pack<Word, W> y;
      for (int w = 0; w < W; ++w) {
        const bool keep = shape.is_on(on + r * shape.segments, h.label[w]);
        y.v[w] = keep ? h.x.v[w] : h.baseline.v[w];
      }
      store_pack(out + r * shape.batch.size + e, y);
    }
  }
};

}  // namespace xaifast
