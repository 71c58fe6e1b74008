// The kernel of lstm_path.h for a thread block: a column of lanes for the nodes that go together, a
// row for each unit in turn. Plain C++ but for the Block, which is CUDA's (lstm_path.cu) or
// played by threads in the native tests:
//   lane(), lanes()   the node of a thread, and how many go together
//   unit(), units()   the first unit of a thread, and how far it is to its next one
//   sync()            waits for the block; everyone sees what was written
//   add(x)            sum over the lanes of one row, which all of them call
// All arrays are in the workspace, [.., lanes].
#pragma once

#include <cmath>

#include "common/stabilizer.h"
#include "lstm_path/lstm_path.h"

#ifdef __CUDACC__
#define XAI_DEVICE __device__
#else
#define XAI_DEVICE
#endif

namespace xaifast {

template <class T, class Block>
class BlockGroup {
 public:
  // slopes [M, units, lanes] is the workspace of sums in float64.
  XAI_DEVICE BlockGroup(const Block& block, const LstmPath<T>& path, const LstmShape& shape,
                        T* work, double* slopes)
      : block_(block), path_(path), p_(shape), n_(shape.hidden * block.lanes()), slopes_(slopes) {
    kept_ = work;
    marks_ = kept_ + p_.segment * 6 * n_;
    h_ = marks_ + p_.segments() * 2 * n_;
    h_next_ = h_ + n_;
    c_ = h_next_ + n_;
    da_ = c_ + n_;
    dh_ = da_ + 4 * n_;
    dc_ = dh_ + p_.targets * n_;
  }

  // The nodes [first, first + count), count <= lanes.
  XAI_DEVICE void run(std::int64_t first, std::int64_t count, double* total, double* S,
                      double* slope) {
    k_ = first + block_.lane();
    counts_ = block_.lane() < count;
    alpha_ = static_cast<T>(path_.alpha[counts_ ? k_ : first]);
    std::int64_t steps = 0;
    for (std::int64_t m = 0; m < p_.targets; ++m) {
      steps = at(m) + 1 > steps ? at(m) + 1 : steps;
      slopes_at(m) = 0;
      if (counts_ && at(m) < 0) poison(m, S, slope);
    }
    each_unit([&](std::int64_t e, std::int64_t) { h_[e] = c_[e] = T(0); });
    block_.sync();
    for (std::int64_t t = 0; t < steps; ++t) {
      if (t % p_.segment == 0) mark(t);
      forward(t);
      score(t, S);
    }
    for (std::int64_t end = steps; end > 0;) {
      const std::int64_t begin = (end - 1) / p_.segment * p_.segment;
      if (end != steps) again(begin, end);
      for (std::int64_t t = end - 1; t >= begin; --t) backward(t, total);
      end = begin;
    }
    block_.sync();
    if (block_.unit() == 0 && counts_) add_slopes(slope);
    block_.sync();
  }

 private:
  // The step of a target; -1 where there is no such step.
  XAI_DEVICE std::int64_t at(std::int64_t m) const {
    const std::int64_t t = path_.step[m * path_.step_step];
    return t >= 0 && t < p_.steps ? t : -1;
  }

  // f(e, j) for the units j of this thread; e is the place of the unit's number in [H, lanes].
  template <class F>
  XAI_DEVICE void each_unit(const F& f) const {
    for (std::int64_t j = block_.unit(); j < p_.hidden; j += block_.units()) {
      f(j * block_.lanes() + block_.lane(), j);
    }
  }

  XAI_DEVICE double& slopes_at(std::int64_t m) const {
    return slopes_[(m * block_.units() + block_.unit()) * block_.lanes() + block_.lane()];
  }

  XAI_DEVICE void poison(std::int64_t m, double* S, double* slope) const {
    if (block_.unit() != 0) return;
    using std::nan;
    S[m * path_.weight_step + k_] = slope[m * path_.weight_step + k_] = nan("");
  }

  XAI_DEVICE static T logistic_of(T x) {
    using std::exp;
    return T(1) / (T(1) + exp(-x));
  }

  XAI_DEVICE T* mark_of(std::int64_t t) const { return marks_ + t / p_.segment * 2 * n_; }
  XAI_DEVICE T* kept(std::int64_t t) const { return kept_ + t % p_.segment * 6 * n_; }

  // Each thread reads what it wrote itself: no sync.
  XAI_DEVICE void mark(std::int64_t t) const {
    T* to = mark_of(t);
    each_unit([&](std::int64_t e, std::int64_t) {
      to[e] = h_[e];
      to[n_ + e] = c_[e];
    });
  }

  XAI_DEVICE void forward(std::int64_t t) {
    using std::tanh;
    const std::int64_t H = p_.hidden;
    const T* start = path_.start + t * 4 * H;
    const T* change = path_.change + t * 4 * H;
    T* keep = kept(t);
    each_unit([&](std::int64_t e, std::int64_t j) {
      T a[4];
      for (int q = 0; q < 4; ++q) a[q] = start[q * H + j] + alpha_ * change[q * H + j];
      for (std::int64_t k = 0; k < H; ++k) {
        const T h = h_[k * block_.lanes() + block_.lane()];
        for (int q = 0; q < 4; ++q) a[q] += path_.w[(q * H + j) * H + k] * h;
      }
      const T i = logistic_of(a[0]), f = logistic_of(a[1]), g = tanh(a[2]), o = logistic_of(a[3]);
      const T before = c_[e], after = f * before + i * g, y = tanh(after);
      c_[e] = after;
      h_next_[e] = o * y;
      const T values[] = {i, f, g, o, y, before};
      for (int q = 0; q < 6; ++q) keep[q * n_ + e] = values[q];
    });
    T* const h = h_;
    h_ = h_next_;
    h_next_ = h;
    block_.sync();
  }

  // The gates of an earlier segment.
  XAI_DEVICE void again(std::int64_t begin, std::int64_t end) {
    const T* from = mark_of(begin);
    each_unit([&](std::int64_t e, std::int64_t) {
      h_[e] = from[e];
      c_[e] = from[n_ + e];
    });
    block_.sync();
    for (std::int64_t t = begin; t < end; ++t) forward(t);
  }

  // S of the targets at this step. The next step writes h_next and c: the sync keeps it off.
  XAI_DEVICE void score(std::int64_t t, double* S) const {
    bool any = false;
    for (std::int64_t m = 0; m < p_.targets; ++m) {
      if (at(m) != t) continue;
      any = true;
      if (block_.unit() != 0 || !counts_) continue;
      double s = 0;
      for (std::int64_t j = 0; j < p_.hidden; ++j) {
        const std::int64_t e = j * block_.lanes() + block_.lane(), at = m * path_.seed_step + j;
        s += static_cast<double>(path_.seed_h[at]) * static_cast<double>(h_[e]) +
             static_cast<double>(path_.seed_c[at]) * static_cast<double>(c_[e]);
      }
      S[m * path_.weight_step + k_] = s;
    }
    if (any) block_.sync();  // the same for all threads
  }

  XAI_DEVICE void backward(std::int64_t t, double* total) const {
    for (std::int64_t m = 0; m < p_.targets; ++m) {
      if (at(m) < t) continue;
      T* dh = dh_ + m * n_;
      T* dc = dc_ + m * n_;
      if (at(m) == t) {
        each_unit([&](std::int64_t e, std::int64_t j) {
          dh[e] = path_.seed_h[m * path_.seed_step + j];
          dc[e] = path_.seed_c[m * path_.seed_step + j];
        });
      }
      gates(t, m, dh, dc, total + (m * p_.steps + t) * 4 * p_.hidden);
      block_.sync();
      hidden(dh);
      block_.sync();
    }
  }

  XAI_DEVICE void gates(std::int64_t t, std::int64_t m, const T* dh, T* dc, double* total) const {
    const std::int64_t H = p_.hidden;
    const T* keep = kept(t);
    const T* change = path_.change + t * 4 * H;
    const T weight = counts_ ? static_cast<T>(path_.weight[m * path_.weight_step + k_]) : T(0);
    double slope = 0;
    each_unit([&](std::int64_t e, std::int64_t j) {
      const T i = keep[e], f = keep[n_ + e], g = keep[2 * n_ + e], o = keep[3 * n_ + e],
              y = keep[4 * n_ + e], before = keep[5 * n_ + e];
      const T d = dc[e] + dh[e] * o * (T(1) - y * y);
      const T da[] = {d * g * i * (T(1) - i), d * before * f * (T(1) - f), d * i * (T(1) - g * g),
                      dh[e] * y * o * (T(1) - o)};
      dc[e] = d * f;
      for (int q = 0; q < 4; ++q) {
        da_[q * n_ + e] = da[q];
        slope += static_cast<double>(change[q * H + j] * da[q]);
        const double sum = block_.add(static_cast<double>(weight * da[q]));
        if (block_.lane() == 0) total[q * H + j] += sum;
      }
    });
    slopes_at(m) += slope;
  }

  // dh = W^T da
  XAI_DEVICE void hidden(T* dh) const {
    const std::int64_t rows = 4 * p_.hidden;
    each_unit([&](std::int64_t e, std::int64_t j) {
      T s = 0;
      for (std::int64_t r = 0; r < rows; ++r) {
        s += path_.w_t[j * rows + r] * da_[r * block_.lanes() + block_.lane()];
      }
      dh[e] = s;
    });
  }

  XAI_DEVICE void add_slopes(double* slope) const {
    for (std::int64_t m = 0; m < p_.targets; ++m) {
      if (at(m) < 0) continue;
      double s = 0;
      for (std::int64_t u = 0; u < block_.units(); ++u) {
        s += slopes_[(m * block_.units() + u) * block_.lanes() + block_.lane()];
      }
      slope[m * path_.weight_step + k_] = s;
    }
  }

  const Block& block_;
  const LstmPath<T>& path_;
  const LstmShape& p_;
  std::int64_t n_;
  double* slopes_;
  T *kept_, *marks_, *h_, *h_next_, *c_, *da_, *dh_, *dc_;
  std::int64_t k_ = 0;
  bool counts_ = false;
  T alpha_ = 0;
};

// One part of one path of the batch by one block; work and slopes belong to it.
template <class T, class Block>
XAI_DEVICE void lstm_path_with(const Block& block, const LstmBatch<T>& batch,
                               const LstmPath<T>& path, std::int64_t part, T* work, double* slopes,
                               double* total, double* S, double* slope) {
  BlockGroup<T, Block> group(block, path, batch.shape, work, slopes);
  const std::int64_t end = batch.begin_of(part + 1);
  for (std::int64_t k = batch.begin_of(part); k < end; k += batch.lanes) {
    group.run(k, end - k < batch.lanes ? end - k : batch.lanes, total, S, slope);
  }
}

}  // namespace xaifast
