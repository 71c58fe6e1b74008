#include "relevance/zplus_linear.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <type_traits>

#include "common/clones.h"
#include "common/stabilizer.h"
#include "relevance/backward_product.h"

namespace xaifast {
namespace {

// Half a register of AVX-512, a whole one of AVX2. Sums run in packs of one width everywhere, so
// that every machine rounds alike.
template <class T>
struct PackOf {
  typedef T type __attribute__((vector_size(32), aligned(alignof(T)), may_alias));
  typedef std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t> Word;
  typedef Word Words __attribute__((vector_size(32), aligned(alignof(T)), may_alias));
  static constexpr std::int64_t kSize = 32 / sizeof(T);
};
template <class T>
using Pack = typename PackOf<T>::type;

// How a pack is passed depends on the instruction set; all of these are inlined.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

template <class T>
inline const Pack<T>& pack(const T* p) {
  return *reinterpret_cast<const Pack<T>*>(p);
}

// |x| by its bits: a choice between two vectors is slow where the machine's are narrower.
template <class T>
inline Pack<T> magnitude(const Pack<T>& x) {
  using Words = typename PackOf<T>::Words;
  return (Pack<T>)((Words)x & (static_cast<typename PackOf<T>::Word>(-1) >> 1));
}

// Sums of the contributions of both signs.
template <class T>
struct Signed {
  T positive, negative;
};

// Halves are added to each other: fewer roundings than one after the other.
template <class T>
inline T sum(const Pack<T>& x) {
  T lane[PackOf<T>::kSize];
  for (std::int64_t i = 0; i < PackOf<T>::kSize; ++i) lane[i] = x[i];
  for (std::int64_t n = PackOf<T>::kSize / 2; n > 0; n /= 2) {
    for (std::int64_t i = 0; i < n; ++i) lane[i] += lane[i + n];
  }
  return lane[0];
}

constexpr int kGroup = kUnitsAtOnce;

// z[g] += the contributions of n columns to each unit of a group, twice: half of p + |p| is p+.
template <class T>
XAI_CLONES void add_contributions(const T* __restrict a, const T* const* w, Signed<T>* z,
                                  std::int64_t n) {
  Pack<T> up[kGroup] = {}, down[kGroup] = {};
  std::int64_t j = 0;
  for (; j + PackOf<T>::kSize <= n; j += PackOf<T>::kSize) {
    const Pack<T> x = pack(a + j);
#pragma GCC unroll 4
    for (int g = 0; g < kGroup; ++g) {
      const Pack<T> p = x * pack(w[g] + j), size = magnitude<T>(p);
      up[g] += p + size;
      down[g] += p - size;
    }
  }
  for (int g = 0; g < kGroup; ++g) {
    Signed<T> rest{0, 0};
    for (std::int64_t i = j; i < n; ++i) {
      const T p = a[i] * w[g][i], size = std::abs(p);
      rest.positive += p + size;
      rest.negative += p - size;
    }
    z[g].positive += sum<T>(up[g]) + rest.positive;
    z[g].negative += sum<T>(down[g]) + rest.negative;
  }
}

// c_j += the weights of a group times their s, by the signs of the contributions.
template <class T>
XAI_CLONES void hand_back(const T* __restrict a, const T* __restrict w0, const T* __restrict w1,
                          const T* __restrict w2, const T* __restrict w3, const Signed<T>* s,
                          T* __restrict c, std::int64_t n) {
  const T up0 = s[0].positive, up1 = s[1].positive, up2 = s[2].positive, up3 = s[3].positive;
  const T down0 = s[0].negative, down1 = s[1].negative;
  const T down2 = s[2].negative, down3 = s[3].negative;
#pragma omp simd
  for (std::int64_t j = 0; j < n; ++j) {
    const T x = a[j];
    const T c0 = (x * w0[j] > 0 ? up0 : down0) * w0[j], c1 = (x * w1[j] > 0 ? up1 : down1) * w1[j];
    const T c2 = (x * w2[j] > 0 ? up2 : down2) * w2[j], c3 = (x * w3[j] > 0 ? up3 : down3) * w3[j];
    c[j] += (c0 + c1) + (c2 + c3);
  }
}

// Columns that are read at once: in the first cache they stay for all rows, and while a group hands
// back so many, the processor fetches the next ones of the group behind it. Their contributions are
// added up one after the other, and the sums of so many to each other, which rounds less.
constexpr std::int64_t kChunk = 512;

// s+ and s- of one unit.
template <class T>
Signed<T> shares(T R, Signed<T> z, T b, const ZplusLinear& shape) {
  Signed<T> s{0, 0};
  for (std::int64_t p = 0; p < shape.parts; ++p) {
    const T positive = static_cast<T>(shape.part[p].positive);
    const T negative = static_cast<T>(shape.part[p].negative);
    const T own = b > 0 ? positive * b : negative * b;
    const T whole = positive * (z.positive / 2) + negative * (z.negative / 2) + own;
    const T quotient = stabilized_quotient<T>(R, whole, static_cast<T>(shape.eps));
    s.positive += static_cast<T>(shape.part[p].share) * positive * quotient;
    s.negative += static_cast<T>(shape.part[p].share) * negative * quotient;
  }
  return s;
}

// Units on their way through both products. One that is short of units repeats its first, without
// relevance.
template <class T>
struct Group {
  const T* w[kGroup];
  Signed<T> z[kMaxRows][kGroup] = {};
  Signed<T> s[kMaxRows][kGroup] = {};
  bool used[kMaxRows] = {};

  Group(const T* all, const ZplusLinear& shape, const std::int64_t* units, std::int64_t count) {
    for (int g = 0; g < kGroup; ++g) w[g] = all + units[g < count ? g : 0] * shape.J;
  }

  void read(const T* a, const ZplusLinear& shape, std::int64_t j, std::int64_t n) {
    const T* columns[kGroup];
    for (int g = 0; g < kGroup; ++g) columns[g] = w[g] + j;
    for (std::int64_t i = 0; i < shape.N; ++i) {
      add_contributions<T>(a + i * shape.J + j, columns, z[i], n);
    }
  }

  void divide(const T* R, const T* b, const ZplusLinear& shape, const std::int64_t* units,
              std::int64_t count) {
    for (std::int64_t row = 0; row < shape.rows(); ++row) {
      for (std::int64_t g = 0; g < count; ++g) {
        const T bias = b == nullptr ? T(0) : b[units[g]];
        s[row][g] = shares<T>(R[row * shape.K + units[g]], z[row % shape.N][g], bias, shape);
        used[row] |= !(s[row][g].positive == 0 && s[row][g].negative == 0);
      }
    }
  }

  void hand_back(const T* a, T* c, const ZplusLinear& shape, std::int64_t j, std::int64_t n) const {
    for (std::int64_t row = 0; row < shape.rows(); ++row) {
      if (!used[row]) continue;
      xaifast::hand_back<T>(a + row % shape.N * shape.J + j, w[0] + j, w[1] + j, w[2] + j, w[3] + j,
                            s[row], c + row * shape.J + j, n);
    }
  }
};

template <class T>
XAI_CLONES void add_to(const T* __restrict x, T* __restrict y, std::int64_t n) {
#pragma omp simd
  for (std::int64_t j = 0; j < n; ++j) y[j] += x[j];
}

template <class T>
XAI_CLONES void multiply_by(const T* __restrict a, T* __restrict R, std::int64_t n) {
#pragma omp simd
  for (std::int64_t j = 0; j < n; ++j) R[j] *= a[j];
}

}  // namespace

template <class T>
void zplus_linear(const T* a, const T* R, const T* w, const T* b, T* c, const ZplusLinear& shape,
                  const std::int64_t* units, std::int64_t begin, std::int64_t end) {
  std::fill(c, c + shape.rows() * shape.J, T(0));
  std::optional<Group<T>> before;
  for (std::int64_t i = begin; i < end; i += kGroup) {
    const std::int64_t count = std::min<std::int64_t>(kGroup, end - i);
    Group<T> group(w, shape, units + i, count);
    for (std::int64_t j = 0; j < shape.J; j += kChunk) {
      const std::int64_t n = std::min(kChunk, shape.J - j);
      if (before) before->hand_back(a, c, shape, j, n);
      group.read(a, shape, j, n);
    }
    group.divide(R, b, shape, units + i, count);
    before = group;
  }
  if (before) before->hand_back(a, c, shape, 0, shape.J);
}

template <class T>
void sum_blocks(const T* c, const T* a, T* R, const ZplusLinear& shape, std::int64_t blocks,
                std::int64_t begin, std::int64_t end) {
  std::fill(R + begin, R + end, T(0));
  for (std::int64_t i = 0; i < blocks; ++i) {
    add_to<T>(c + i * shape.rows() * shape.J + begin, R + begin, end - begin);
  }
  const std::int64_t inputs = shape.N * shape.J;
  for (std::int64_t i = begin; i < end;) {  // of one target at a time
    const std::int64_t at = i % inputs, n = std::min(end - i, inputs - at);
    multiply_by<T>(a + at, R + i, n);
    i += n;
  }
}

#define XAI_INSTANTIATE(T)                                                                      \
  template void zplus_linear<T>(const T*, const T*, const T*, const T*, T*, const ZplusLinear&, \
                                const std::int64_t*, std::int64_t, std::int64_t);               \
  template void sum_blocks<T>(const T*, const T*, T*, const ZplusLinear&, std::int64_t,         \
                              std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
