#include "relevance/pool_redistribute.h"

#include <algorithm>
#include <type_traits>

#include "common/clones.h"
#include "common/floats.h"
#include "common/stabilizer.h"

namespace xaifast {
namespace {

// Elements [begin, end) of window o along axis d that lie in the input, and where element 0 would.
struct Inside {
  std::int64_t first, begin, end;
};

inline Inside inside(const PoolShape& p, int d, std::int64_t o) {
  const std::int64_t first = o * p.stride[d] - p.padding[d], dilation = p.dilation[d];
  std::int64_t before = std::max<std::int64_t>(-first, 0);
  std::int64_t within = std::max<std::int64_t>(p.in[d] - first, 0);
  if (dilation != 1) {  // divisions cost more than a small window
    before = (before + dilation - 1) / dilation;
    within = (within + dilation - 1) / dilation;
  }
  return {first, before, std::min(p.kernel[d], within)};
}

// Calls f(offset of the input element) for each element of window o, in row-major order.
template <class F>
inline void for_each_in_window(const PoolShape& p, const std::int64_t o[3], const F& f) {
  const Inside w0 = inside(p, 0, o[0]), w1 = inside(p, 1, o[1]), w2 = inside(p, 2, o[2]);
  for (std::int64_t j0 = w0.begin; j0 < w0.end; ++j0) {
    const std::int64_t i0 = w0.first + j0 * p.dilation[0];
    for (std::int64_t j1 = w1.begin; j1 < w1.end; ++j1) {
      const std::int64_t line = (i0 * p.in[1] + w1.first + j1 * p.dilation[1]) * p.in[2];
      for (std::int64_t j2 = w2.begin; j2 < w2.end; ++j2) {
        f((line + w2.first + j2 * p.dilation[2]) * p.inner);
      }
    }
  }
}

// An integer as wide as the numbers it stands beside, so that both fill vectors alike.
template <class T>
using Index = std::conditional_t<sizeof(Compute<T>) == 8, std::int64_t, std::int32_t>;

// best = the larger of best and a; winner = j where that is a. A NaN wins and stays.
template <class T>
XAI_CLONES void keep_larger(const T* __restrict a, Index<T> j, Compute<T>* __restrict best,
                            Index<T>* __restrict winner, std::int64_t n) {
#pragma omp simd
  for (std::int64_t c = 0; c < n; ++c) {
    const Compute<T> x = a[c];
    const bool wins = !(x <= best[c]) & (best[c] == best[c]);
    best[c] = wins ? x : best[c];
    winner[c] = wins ? j : winner[c];
  }
}

// r += R where j is the winner.
template <class T>
XAI_CLONES void add_won(const T* __restrict R, const Index<T>* __restrict winner, Index<T> j,
                        T* __restrict r, std::int64_t n) {
#pragma omp simd
  for (std::int64_t c = 0; c < n; ++c) {
    const Compute<T> won = winner[c] == j ? Compute<T>(R[c]) : Compute<T>(0);
    r[c] = T(Compute<T>(r[c]) + won);
  }
}

template <class T>
XAI_CLONES void add_to(const T* __restrict a, Compute<T>* __restrict z, std::int64_t n) {
#pragma omp simd
  for (std::int64_t c = 0; c < n; ++c) z[c] += Compute<T>(a[c]);
}

// r += a s
template <class T>
XAI_CLONES void add_share(const T* __restrict a, const Compute<T>* __restrict s, T* __restrict r,
                          std::int64_t n) {
#pragma omp simd
  for (std::int64_t c = 0; c < n; ++c) r[c] = T(Compute<T>(r[c]) + Compute<T>(a[c]) * s[c]);
}

template <class T>
struct Block {
  const T* a;
  const T* R;
  T* r;
  std::int64_t n;         // channels in this block
  std::int64_t R_target;  // distance between targets in R and in r
  std::int64_t r_target;
};

template <class T>
void winner_take_all(const PoolShape& p, const Block<T>& b, const std::int64_t o[3],
                     std::int64_t at) {
  Compute<T> best[kPoolBlock];
  Index<T> winner[kPoolBlock] = {};
  Index<T> j = 0;
  for_each_in_window(p, o, [&](std::int64_t offset) {
    if (j == 0) {
      for (std::int64_t c = 0; c < b.n; ++c) best[c] = b.a[offset + c];
    } else {
      keep_larger(b.a + offset, j, best, winner, b.n);
    }
    ++j;
  });
  for (std::int64_t t = 0; t < p.targets; ++t) {
    const T* R = b.R + t * b.R_target + at;
    T* r = b.r + t * b.r_target;
    j = 0;
    for_each_in_window(p, o,
                       [&](std::int64_t offset) { add_won(R, winner, j++, r + offset, b.n); });
  }
}

template <class T>
void proportional(const PoolShape& p, const Block<T>& b, const std::int64_t o[3], std::int64_t at,
                  Compute<T> eps) {
  Compute<T> z[kPoolBlock] = {};
  Compute<T> s[kPoolBlock];
  for_each_in_window(p, o, [&](std::int64_t offset) { add_to(b.a + offset, z, b.n); });
  for (std::int64_t t = 0; t < p.targets; ++t) {
    const T* R = b.R + t * b.R_target + at;
    T* r = b.r + t * b.r_target;
    for (std::int64_t c = 0; c < b.n; ++c) {
      s[c] = stabilized_quotient<Compute<T>>(Compute<T>(R[c]), z[c], eps);
    }
    for_each_in_window(p, o,
                       [&](std::int64_t offset) { add_share(b.a + offset, s, r + offset, b.n); });
  }
}

inline std::int64_t volume(const std::int64_t size[3]) { return size[0] * size[1] * size[2]; }

template <class T>
void clear(const PoolShape& p, const Block<T>& b) {
  for (std::int64_t t = 0; t < p.targets; ++t) {
    for (std::int64_t i = 0; i < volume(p.in); ++i) {
      T* r = b.r + t * b.r_target + i * p.inner;
      std::fill(r, r + b.n, T(0.0f));
    }
  }
}

}  // namespace

template <class T>
void pool_redistribute(const T* a, const T* R, T* r, const PoolShape& p, PoolRule rule, double eps,
                       std::int64_t block, std::int64_t begin, std::int64_t end) {
  const std::int64_t in = volume(p.in) * p.inner;
  const std::int64_t out = volume(p.out) * p.inner;
  const std::int64_t blocks = (p.inner + block - 1) / block;
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t outer = task / blocks;
    const std::int64_t first = (task % blocks) * block;
    const Block<T> b{a + outer * in + first, R + outer * out + first,
                     r + outer * in + first, std::min(block, p.inner - first),
                     p.outer * out,          p.outer * in};
    clear(p, b);
    std::int64_t o[3];
    std::int64_t at = 0;
    for (o[0] = 0; o[0] < p.out[0]; ++o[0]) {
      for (o[1] = 0; o[1] < p.out[1]; ++o[1]) {
        for (o[2] = 0; o[2] < p.out[2]; ++o[2], at += p.inner) {
          if (rule == PoolRule::kWinnerTakeAll) {
            winner_take_all(p, b, o, at);
          } else {
            proportional(p, b, o, at, static_cast<Compute<T>>(eps));
          }
        }
      }
    }
  }
}

#define XAI_INSTANTIATE(T)                                                                       \
  template void pool_redistribute<T>(const T*, const T*, T*, const PoolShape&, PoolRule, double, \
                                     std::int64_t, std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(BFloat16)
XAI_INSTANTIATE(Float16)
#undef XAI_INSTANTIATE

}  // namespace xaifast
