#include "lstm_path/lstm_path.h"

#include <algorithm>

#include "common/activations.h"
#include "common/clones.h"

namespace xaifast {
namespace {

// What is kept of a step: [kKept, H, lanes].
enum Kept { kI, kF, kG, kO, kTanh, kBefore, kKept };  // kBefore: c_{t-1}

// y[q, l] = sum_k w[q step + k] x[k, l] for four rows q; n >= 1. GCC turns the lanes of this form
// into vectors: one pointer for all rows, and an inner loop that runs at least once.
template <class T>
XAI_CLONES void four_rows(const T* __restrict w, std::int64_t step, const T* __restrict x,
                          T* __restrict y, std::int64_t n) {
  constexpr std::int64_t L = kLanes<T>;
#pragma omp simd
  for (std::int64_t l = 0; l < L; ++l) {
    T s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    std::int64_t k = 0;
    do {
      const T xk = x[k * L + l];
      s0 += w[k] * xk;
      s1 += w[step + k] * xk;
      s2 += w[2 * step + k] * xk;
      s3 += w[3 * step + k] * xk;
    } while (++k < n);
    y[l] = s0;
    y[L + l] = s1;
    y[2 * L + l] = s2;
    y[3 * L + l] = s3;
  }
}

// The gates of unit j from their products a [4, lanes] with h_{t-1}. start, change, and what is
// kept are those of unit 0, `H` rows apart for the next gate.
template <class T>
XAI_CLONES void forward_unit(const T* __restrict start, const T* __restrict change,
                             const T* __restrict a, const T* __restrict alpha, T* __restrict h,
                             T* __restrict c, T* __restrict keep, std::int64_t H) {
  constexpr std::int64_t L = kLanes<T>;
  const std::int64_t n = H * L;
  const T si = start[0], sf = start[H], sg = start[2 * H], so = start[3 * H];
  const T ci = change[0], cf = change[H], cg = change[2 * H], co = change[3 * H];
#pragma omp simd
  for (std::int64_t l = 0; l < L; ++l) {
    const T i = logistic(a[l] + (si + alpha[l] * ci));
    const T f = logistic(a[L + l] + (sf + alpha[l] * cf));
    const T g = hyperbolic_tangent(a[2 * L + l] + (sg + alpha[l] * cg));
    const T o = logistic(a[3 * L + l] + (so + alpha[l] * co));
    const T before = c[l];
    const T after = f * before + i * g;
    const T y = hyperbolic_tangent(after);
    c[l] = after;
    h[l] = o * y;
    keep[kI * n + l] = i;
    keep[kF * n + l] = f;
    keep[kG * n + l] = g;
    keep[kO * n + l] = o;
    keep[kTanh * n + l] = y;
    keep[kBefore * n + l] = before;
  }
}

// One step back: dh, dc of h_t, c_t -> those of h_{t-1}, c_{t-1}; da [4H, lanes].
template <class T>
XAI_CLONES void backward_gates(const T* __restrict keep, const T* __restrict dh, T* __restrict dc,
                               T* __restrict da, std::int64_t H) {
  constexpr std::int64_t L = kLanes<T>;
  const std::int64_t n = H * L;
#pragma omp simd
  for (std::int64_t e = 0; e < n; ++e) {
    const T i = keep[kI * n + e], f = keep[kF * n + e], g = keep[kG * n + e], o = keep[kO * n + e],
            y = keep[kTanh * n + e], before = keep[kBefore * n + e];
    const T d = dc[e] + dh[e] * o * (T(1) - y * y);
    da[e] = d * g * i * (T(1) - i);
    da[n + e] = d * before * f * (T(1) - f);
    da[2 * n + e] = d * i * (T(1) - g * g);
    da[3 * n + e] = dh[e] * y * o * (T(1) - o);
    dc[e] = d * f;
  }
}

// total[r] += sum_l weight[l] da[r, l];  slope[l] += sum_r change[r] da[r, l].
template <class T>
XAI_CLONES void sum_step(const T* __restrict da, const T* __restrict weight,
                         const T* __restrict change, double* __restrict total,
                         double* __restrict slope, std::int64_t gates) {
  constexpr std::int64_t L = kLanes<T>;
  for (std::int64_t r = 0; r < gates; ++r) {
    T s = 0;
#pragma omp simd reduction(+ : s)
    for (std::int64_t l = 0; l < L; ++l) s += weight[l] * da[r * L + l];
    total[r] += static_cast<double>(s);
  }
#pragma omp simd
  for (std::int64_t l = 0; l < L; ++l) {
    T s = 0;
    std::int64_t r = 0;
    do {
      s += change[r] * da[r * L + l];
    } while (++r < gates);
    slope[l] += static_cast<double>(s);
  }
}

// kLanes nodes of one sample on their way through the steps and back.
template <class T>
class Group {
 public:
  Group(const LstmPath<T>& path, const LstmShape& shape, T* work)
      : path_(path), p_(shape), n_(shape.hidden * kLanes<T>) {
    const auto take = [&work](std::int64_t numbers) {
      T* begin = work;
      work += numbers;
      return begin;
    };
    kept_ = take(p_.segment * kKept * n_);
    marks_ = take(p_.segments() * 2 * n_);
    h_ = take(n_);
    h_next_ = take(n_);
    c_ = take(n_);
    da_ = take(4 * n_);
    dh_ = take(p_.targets * p_.padded() * kLanes<T>);
    dc_ = take(p_.targets * n_);
    alpha_ = take(kLanes<T>);
    weight_ = take(p_.targets * kLanes<T>);
  }

  // The nodes [first, first + count).
  void run(std::int64_t first, std::int64_t count, double* total, double* S, double* slope) {
    load(first, count);
    std::int64_t steps = 0;  // as many as some target needs
    for (std::int64_t m = 0; m < p_.targets; ++m) steps = std::max(steps, at(m) + 1);
    std::fill_n(h_, n_, T(0));
    std::fill_n(c_, n_, T(0));
    for (std::int64_t t = 0; t < steps; ++t) {
      if (t % p_.segment == 0) mark(t);
      forward(t);
      score(t, first, count, S);
    }
    for (std::int64_t m = 0; m < p_.targets; ++m) {
      std::fill_n(slope + m * path_.weight_step + first, count, 0.0);
    }
    for (std::int64_t end = steps; end > 0;) {
      const std::int64_t begin = (end - 1) / p_.segment * p_.segment;
      if (end != steps) again(begin, end);
      for (std::int64_t t = end - 1; t >= begin; --t) backward(t, first, count, total, slope);
      end = begin;
    }
  }

 private:
  std::int64_t at(std::int64_t m) const { return path_.step[m * path_.step_step]; }

  // Lanes without a node repeat the last one, with weight 0.
  void load(std::int64_t first, std::int64_t count) {
    for (std::int64_t l = 0; l < kLanes<T>; ++l) {
      const std::int64_t k = first + std::min(l, count - 1);
      alpha_[l] = static_cast<T>(path_.alpha[k]);
      for (std::int64_t m = 0; m < p_.targets; ++m) {
        const double w = path_.weight[m * path_.weight_step + k];
        weight_[m * kLanes<T> + l] = l < count ? static_cast<T>(w) : T(0);
      }
    }
  }

  T* mark_of(std::int64_t t) { return marks_ + t / p_.segment * 2 * n_; }
  T* kept(std::int64_t t) { return kept_ + t % p_.segment * kKept * n_; }

  void mark(std::int64_t t) {
    std::copy_n(h_, n_, mark_of(t));
    std::copy_n(c_, n_, mark_of(t) + n_);
  }

  void forward(std::int64_t t) {
    constexpr std::int64_t L = kLanes<T>;
    const std::int64_t H = p_.hidden, row = t * p_.gates();
    for (std::int64_t j = 0; j < H; ++j) {
      T a[4 * L];
      four_rows(path_.w + j * H, H * H, h_, a, H);
      forward_unit(path_.start + row + j, path_.change + row + j, a, alpha_, h_next_ + j * L,
                   c_ + j * L, kept(t) + j * L, H);
    }
    std::swap(h_, h_next_);
  }

  // dh = W^T da
  void hidden(T* dh) {
    for (std::int64_t j = 0; j < p_.padded(); j += kTogether) {
      four_rows(path_.w_t + j * p_.gates(), p_.gates(), da_, dh + j * kLanes<T>, p_.gates());
    }
  }

  // The gates of an earlier segment.
  void again(std::int64_t begin, std::int64_t end) {
    std::copy_n(mark_of(begin), n_, h_);
    std::copy_n(mark_of(begin) + n_, n_, c_);
    for (std::int64_t t = begin; t < end; ++t) forward(t);
  }

  // S of the targets at this step.
  void score(std::int64_t t, std::int64_t first, std::int64_t count, double* S) {
    for (std::int64_t m = 0; m < p_.targets; ++m) {
      if (at(m) != t) continue;
      const T *seed_h = path_.seed_h + m * path_.seed_step,
              *seed_c = path_.seed_c + m * path_.seed_step;
      for (std::int64_t l = 0; l < count; ++l) {
        double s = 0;
        for (std::int64_t j = 0; j < p_.hidden; ++j) {
          s += static_cast<double>(seed_h[j]) * static_cast<double>(h_[j * kLanes<T> + l]) +
               static_cast<double>(seed_c[j]) * static_cast<double>(c_[j * kLanes<T> + l]);
        }
        S[m * path_.weight_step + first + l] = s;
      }
    }
  }

  void backward(std::int64_t t, std::int64_t first, std::int64_t count, double* total,
                double* slope) {
    const std::int64_t gates = p_.gates();
    for (std::int64_t m = 0; m < p_.targets; ++m) {
      if (at(m) < t) continue;
      T* dh = dh_ + m * p_.padded() * kLanes<T>;
      T* dc = dc_ + m * n_;
      if (at(m) == t) seed(m, dh, dc);
      backward_gates(kept(t), dh, dc, da_, p_.hidden);
      double change[kLanes<T>] = {};
      sum_step(da_, weight_ + m * kLanes<T>, path_.change + t * gates,
               total + (m * p_.steps + t) * gates, change, gates);
      double* to = slope + m * path_.weight_step + first;
      for (std::int64_t l = 0; l < count; ++l) to[l] += change[l];
      if (t > 0) hidden(dh);
    }
  }

  void seed(std::int64_t m, T* dh, T* dc) {
    for (std::int64_t j = 0; j < p_.hidden; ++j) {
      std::fill_n(dh + j * kLanes<T>, kLanes<T>, path_.seed_h[m * path_.seed_step + j]);
      std::fill_n(dc + j * kLanes<T>, kLanes<T>, path_.seed_c[m * path_.seed_step + j]);
    }
  }

  const LstmPath<T>& path_;
  const LstmShape& p_;
  std::int64_t n_;
  T *kept_, *marks_, *h_, *h_next_, *c_, *da_, *dh_, *dc_, *alpha_, *weight_;
};

}  // namespace

std::int64_t lstm_path_work(const LstmShape& p, std::int64_t lanes) {
  const std::int64_t states = p.segment * kKept + p.segments() * 2 + 3 + 4 + p.targets;
  return lanes * (states * p.hidden + p.targets * p.padded() + 1 + p.targets);
}

template <class T>
void lstm_path(const LstmPath<T>& path, const LstmShape& shape, std::int64_t begin,
               std::int64_t end, T* work, double* total, double* S, double* slope) {
  Group<T> group(path, shape, work);
  for (std::int64_t k = begin; k < end; k += kLanes<T>) {
    group.run(k, std::min(kLanes<T>, end - k), total, S, slope);
  }
}

#define XAI_INSTANTIATE(T)                                                                         \
  template void lstm_path<T>(const LstmPath<T>&, const LstmShape&, std::int64_t, std::int64_t, T*, \
                             double*, double*, double*);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
