#include "sampling/scatter_windows.h"

#include <vector>

#include "common/clones.h"
#include "common/floats.h"

namespace xaifast {
namespace {

template <class T>
XAI_CLONES void add_scores(const T* __restrict scores, Compute<T>* __restrict sums,
                           std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) sums[i] += Compute<T>(scores[i]);
}

// line[e] += sums[k] for the numbers e that window k of the axis covers, in ascending order of k.
template <class C>
XAI_CLONES void spread(const C* __restrict sums, const WindowAxis& a, C* __restrict line) {
  for (std::int64_t k = 0; k < a.positions; ++k) {
    const std::int64_t begin = k * a.stride;
    const std::int64_t end = std::min(begin + a.window, a.size);
    const C sum = sums[k];
#pragma omp simd
    for (std::int64_t e = begin; e < end; ++e) line[e] += sum;
  }
}

// The same for windows that move by one: all windows at once, for one of their numbers after the
// other. The last number goes first, so that k ascends for each e.
template <class C>
XAI_CLONES void spread_dense(const C* __restrict sums, const WindowAxis& a, C* __restrict line) {
  for (std::int64_t i = a.window - 1; i >= 0; --i) {
#pragma omp simd
    for (std::int64_t k = 0; k < a.positions; ++k) line[i + k] += sums[k];
  }
}

// out = line / (count others), or 0 where nothing covers.
template <class T>
XAI_CLONES void divide(const Compute<T>* __restrict line, const Compute<T>* __restrict count,
                       Compute<T> others, T* __restrict out, std::int64_t n) {
#pragma omp simd
  for (std::int64_t e = 0; e < n; ++e) {
    const Compute<T> windows = count[e] * others;
    out[e] = T(windows == 0 ? Compute<T>(0) : line[e] / windows);
  }
}

template <class T>
XAI_CLONES void round(const Compute<T>* __restrict line, T* __restrict out, std::int64_t n) {
#pragma omp simd
  for (std::int64_t e = 0; e < n; ++e) out[e] = T(line[e]);
}

// The windows around one line after the other: of each axis but the last, [begin, end).
class Around {
 public:
  Around(const Windows& w, std::int64_t line) : w_(w) {
    for (int d = w.axes - 2; d >= 0; --d) {
      at_[d] = line % w.axis[d].size;
      line /= w.axis[d].size;
      begin_[d] = end_[d] = 0;
      advance(d);
    }
  }

  std::int64_t begin(int d) const { return begin_[d]; }
  std::int64_t end(int d) const { return end_[d]; }

  std::int64_t count() const {
    std::int64_t n = 1;
    for (int d = 0; d + 1 < w_.axes; ++d) n *= end_[d] - begin_[d];
    return n;
  }

  // Whether the next line lies in the same windows.
  bool next() {
    for (int d = w_.axes - 2; d >= 0; --d) {
      if (++at_[d] < w_.axis[d].size) return !advance(d) && d == w_.axes - 2;
      at_[d] = begin_[d] = end_[d] = 0;
      advance(d);
    }
    return false;
  }

 private:
  // Whether the windows around at[d] are others than before.
  bool advance(int d) {
    const WindowAxis& a = w_.axis[d];
    const std::int64_t begin = begin_[d], end = end_[d];
    while (end_[d] < a.positions && end_[d] * a.stride <= at_[d]) ++end_[d];
    while (begin_[d] < end_[d] && begin_[d] * a.stride + a.window <= at_[d]) ++begin_[d];
    return begin_[d] != begin || end_[d] != end;
  }

  const Windows& w_;
  std::int64_t at_[kMaxAxes], begin_[kMaxAxes], end_[kMaxAxes];
};

template <class T>
class Line {
 public:
  using C = Compute<T>;

  explicit Line(const ScatterShape& shape)
      : shape_(shape),
        last_(shape.windows.axis[shape.windows.axes - 1]),
        sums_(last_.positions, C(1)),
        line_(last_.size),
        count_(last_.size) {
    spread_sums();
    count_ = line_;
  }

  void make(const T* scores, const Around& around, T* out) {
    std::fill(sums_.begin(), sums_.end(), C(0));
    add_windows(scores, around, 0);
    spread_sums();
    if (shape_.average) {
      divide(line_.data(), count_.data(), static_cast<C>(around.count()), out, last_.size);
    } else {
      round(line_.data(), out, last_.size);
    }
  }

 private:
  // sums[k] += the scores of all windows around that have number k along the last axis.
  void add_windows(const T* scores, const Around& around, int d) {
    if (d == shape_.windows.axes - 1) return add_scores(scores, sums_.data(), last_.positions);
    for (std::int64_t i = around.begin(d); i < around.end(d); ++i) {
      add_windows(scores + i * shape_.windows.axis[d].step, around, d + 1);
    }
  }

  void spread_sums() {
    std::fill(line_.begin(), line_.end(), C(0));
    if (last_.stride == 1) {
      spread_dense(sums_.data(), last_, line_.data());
    } else {
      spread(sums_.data(), last_, line_.data());
    }
  }

  const ScatterShape& shape_;
  WindowAxis last_;
  std::vector<C> sums_;   // of the windows, along the last axis
  std::vector<C> line_;   // the same for the numbers of the axis
  std::vector<C> count_;  // how many windows cover each number along the last axis
};

}  // namespace

template <class T>
void scatter_windows(const T* scores, T* out, const ScatterShape& shape, std::int64_t begin,
                     std::int64_t end) {
  const Windows& w = shape.windows;
  const std::int64_t n = shape.line(), lines = shape.size / n;
  // Where every window covers the first axis in full, lines repeat along it.
  const bool repeats = w.axes > 1 && w.axis[0].window == w.axis[0].size;
  const std::int64_t period = repeats ? lines / w.axis[0].size : lines;
  Line<T> line(shape);
  Around around(w, begin % lines);
  bool same = false;  // as the line before
  for (std::int64_t i = begin; i < end; ++i) {
    const bool repeated = i % lines >= period && i - period >= begin;
    if (repeated || same) {
      const std::int64_t from = repeated ? i - period : i - 1;
      std::copy(out + from * n, out + (from + 1) * n, out + i * n);
    } else {
      line.make(scores + i / lines * shape.K, around, out + i * n);
    }
    same = around.next();
  }
}

#define XAI_INSTANTIATE(T) \
  template void scatter_windows<T>(const T*, T*, const ScatterShape&, std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(BFloat16)
XAI_INSTANTIATE(Float16)
#undef XAI_INSTANTIATE

}  // namespace xaifast
