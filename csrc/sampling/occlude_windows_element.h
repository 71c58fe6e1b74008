// The two steps of occlude_windows (contract: occlude_windows.h), as CUDA threads do them one after
// the other; see common/grid.h: all samples are copied once for each window, then the windows are
// written over them.
#pragma once

#include "common/pack.h"
#include "sampling/occlude_windows.h"

namespace xaifast {

template <class Word>
struct RepeatElement {
  static constexpr int kResident = 4;
  const Word* x;
  Word* out;
  std::int64_t n;  // numbers of all samples
  std::int64_t count;

  XAI_HOST_DEVICE std::int64_t size() const { return n; }
  XAI_HOST_DEVICE std::int64_t targets() const { return count; }
  bool packs() const { return n % kPackWidth<Word> == 0 && start_packs(x, out); }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t i, std::int64_t k, std::int64_t step) const {
    const auto pack = load_pack<W>(x + i);
    XAI_NO_UNROLL
    for (; k < count; k += step) store_pack(out + k * n + i, pack);
  }
};

// Position i counts the numbers of a whole window, which may be cut off.
template <class Word>
struct CoverElement {
  static constexpr int kResident = 4;
  const Word* baseline;
  Word* out;
  OccludeShape shape;

  XAI_HOST_DEVICE std::int64_t size() const {
    std::int64_t n = shape.batch.size == 0 ? 0 : 1;
    for (int d = 0; d < shape.windows.axes; ++d) n *= shape.windows.axis[d].window;
    return n;
  }
  XAI_HOST_DEVICE std::int64_t targets() const { return shape.batch.rows; }

  // Where number i of window k is in a sample; -1 where it is cut off.
  XAI_HOST_DEVICE std::int64_t place(std::int64_t i, std::int64_t k) const {
    std::int64_t e = 0, inner = 1;
    XAI_NO_UNROLL
    for (int d = shape.windows.axes - 1; d >= 0; --d) {
      const WindowAxis& a = shape.windows.axis[d];
      const std::int64_t begin = a.positions == 1 ? 0 : k / a.step % a.positions * a.stride;
      const std::int64_t at = begin + i % a.window;
      if (at >= a.size) return -1;
      i /= a.window;
      e += at * inner;
      inner *= a.size;
    }
    return e;
  }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t i, std::int64_t r, std::int64_t step) const {
    static_assert(W == 1);
    const BatchShape& batch = shape.batch;
    XAI_NO_UNROLL
    for (; r < batch.rows; r += step) {
      const std::int64_t k = r / batch.samples;
      const std::int64_t e = place(i, shape.first + k);
      if (e < 0) continue;
      out[r * batch.size + e] = baseline[batch.baseline_at(r - k * batch.samples) + e];
    }
  }
};

}  // namespace xaifast
