#include "relevance/panels.h"

#include "common/clones.h"

// A product and its sum in one instruction are half of the speed: unlike everywhere else, machines
// without it round differently. (No vector leaves its function, whatever GCC notes about ABIs.)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace xaifast {
namespace {

// Channels that are added up one after the other; the sums of so many are added to each other,
// which rounds less.
constexpr std::int64_t kChain = 64;

// m[r, panel] = sum_c v[r, c] w[c, panel] for R rows: 2 R sums and a row of w stay in registers.
template <class T, int R>
XAI_CLONES void multiply(const T* v, const T* w, T* m, std::int64_t C, std::int64_t K) {
  for (std::int64_t begin = 0; begin < C || begin == 0; begin += kChain) {
    const std::int64_t end = C < begin + kChain ? C : begin + kChain;
    Vec<T> sum[R][2] = {};
    for (std::int64_t c = begin; c < end; ++c, w += 2 * kLanes<T>) {
      const Vec<T> w0 = vec(w), w1 = vec(w + kLanes<T>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const T a = v[r * C + c];
        sum[r][0] += a * w0;
        sum[r][1] += a * w1;
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      T* const row = m + r * K;
      vec(row) = begin == 0 ? sum[r][0] : vec(row) + sum[r][0];
      vec(row + kLanes<T>) = begin == 0 ? sum[r][1] : vec(row + kLanes<T>) + sum[r][1];
    }
  }
}

}  // namespace

template <class T>
void multiply_rows(const T* v, const T* w, T* m, std::int64_t rows, std::int64_t C,
                   std::int64_t K) {
  constexpr std::int64_t P = 2 * kLanes<T>;
  for (std::int64_t k = 0; k < K; k += P, w += C * P) {
    std::int64_t r = 0;
    for (; r + kRows <= rows; r += kRows) multiply<T, kRows>(v + r * C, w, m + r * K + k, C, K);
    for (; r < rows; r += kRowsLeft) multiply<T, kRowsLeft>(v + r * C, w, m + r * K + k, C, K);
  }
}

#define XAI_INSTANTIATE(T) \
  template void multiply_rows<T>(const T*, const T*, T*, std::int64_t, std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
