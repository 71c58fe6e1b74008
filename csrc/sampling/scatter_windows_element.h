// One step of scatter_windows (contract: scatter_windows.h), as a CUDA thread does it; see
// common/grid.h. The gather form: a thread owns one number and adds up the windows that cover it.
#pragma once

#include "common/pack.h"
#include "sampling/scatter_windows.h"

namespace xaifast {

// kAxes: kFewAxes, or all of kMaxAxes.
template <class T, int kAxes>
struct ScatterElement {
  using C = Compute<T>;
  static constexpr int kResident = 4;
  static constexpr int kLast = kAxes - 1;
  static constexpr int kUnroll = kAxes <= kFewAxes ? kAxes : 1;  // into registers, or local memory
  const T* scores;
  T* out;
  std::int64_t n_targets;
  std::int64_t n;
  std::int64_t K;
  bool average;
  WindowAxis axis[kAxes];

  XAI_HOST_DEVICE std::int64_t size() const { return n; }
  XAI_HOST_DEVICE std::int64_t targets() const { return n_targets; }

  // The windows that cover a number: the first of them, and how many along each axis.
  struct Box {
    std::int64_t first;
    std::int64_t length[kAxes];
    std::int64_t count;
  };

  XAI_HOST_DEVICE Box box(std::int64_t e) const {
    Box b{0, {}, 1};
    XAI_UNROLL(kUnroll)
    for (int d = kLast; d >= 0; --d) {
      const WindowAxis& a = axis[d];
      const std::int64_t rest = a.size == 1 ? e : e / a.size;
      const std::int64_t at = e - rest * a.size;
      e = rest;
      const std::int64_t begin = first_window(a, at);
      const std::int64_t length = last_window(a, at) - begin;
      b.first += begin * a.step;
      b.length[d] = length;
      b.count *= length > 0 ? length : 0;
    }
    return b;
  }

  // The sum over all axes but the last, from the window at s on.
  XAI_HOST_DEVICE C sum_others(const T* s, const Box& b) const {
    C sum = 0;
    std::int64_t at[kAxes] = {};
    XAI_NO_UNROLL
    for (bool more = true; more;) {
      sum += widen<T>(*s);
      more = false;
      XAI_UNROLL(kUnroll)
      for (int d = kLast - 1; d >= 0 && !more; --d) {  // to the next window, or back to the first
        s += axis[d].step;
        more = ++at[d] < b.length[d];
        if (!more) {
          s -= at[d] * axis[d].step;
          at[d] = 0;
        }
      }
    }
    return sum;
  }

  template <int W>
  XAI_HOST_DEVICE void run(std::int64_t e, std::int64_t t, std::int64_t step) const {
    static_assert(W == 1);
    const Box b = box(e);
    XAI_NO_UNROLL
    for (; t < n_targets; t += step) {
      C sum = 0;
      const T* s = scores + t * K + b.first;
      XAI_NO_UNROLL
      for (std::int64_t k = 0; k < b.length[kLast] && b.count > 0; ++k) {
        sum += sum_others(s + k * axis[kLast].step, b);
      }
      const bool divide = average && b.count > 0;
      out[t * n + e] = narrow<T>(divide ? sum / static_cast<C>(b.count) : sum);
    }
  }
};

}  // namespace xaifast
