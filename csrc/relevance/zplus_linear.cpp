#include "relevance/zplus_linear.h"

#include <algorithm>

#include "common/clones.h"
#include "common/stabilizer.h"

namespace xaifast {
namespace {

// Half a register of AVX-512, a whole one of AVX2. Sums run in packs of one width everywhere, so
// that every machine rounds alike.
template <class T>
struct PackOf {
  typedef T type __attribute__((vector_size(32), aligned(alignof(T)), may_alias));
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

// Sums of the contributions of both signs.
template <class T>
struct Signed {
  T positive, negative;
};

// Halves are added to each other: fewer roundings than one after the other.
template <class T>
inline T sum(const Pack<T>& x) {
  if constexpr (PackOf<T>::kSize == 4) {
    return (x[0] + x[2]) + (x[1] + x[3]);
  } else {
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
  }
}

// z[g] += the contributions of n columns to each of G units. A NaN is no positive number.
template <class T, int G>
XAI_CLONES void add_contributions(const T* __restrict a, const T* const* w, Signed<T>* z,
                                  std::int64_t n) {
  Pack<T> up[G] = {}, down[G] = {};
  const Pack<T> zero = {};
  std::int64_t j = 0;
  for (; j + PackOf<T>::kSize <= n; j += PackOf<T>::kSize) {
    const Pack<T> x = pack(a + j);
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      const Pack<T> p = x * pack(w[g] + j);
      up[g] += p > zero ? p : zero;
      down[g] += p > zero ? zero : p;
    }
  }
  for (int g = 0; g < G; ++g) {
    T rest[2] = {0, 0};
    for (std::int64_t i = j; i < n; ++i) {
      const T p = a[i] * w[g][i];
      rest[p > 0 ? 0 : 1] += p;
    }
    z[g].positive += sum<T>(up[g]) + rest[0];
    z[g].negative += sum<T>(down[g]) + rest[1];
  }
}

template <class T>
XAI_CLONES void hand_back_four(const T* __restrict a, const T* __restrict w0,
                               const T* __restrict w1, const T* __restrict w2,
                               const T* __restrict w3, const Signed<T>* s, T* __restrict c,
                               std::int64_t n) {
  const T up0 = s[0].positive, up1 = s[1].positive, up2 = s[2].positive, up3 = s[3].positive;
  const T down0 = s[0].negative, down1 = s[1].negative, down2 = s[2].negative,
          down3 = s[3].negative;
#pragma omp simd
  for (std::int64_t j = 0; j < n; ++j) {
    const T x = a[j];
    const T c0 = (x * w0[j] > 0 ? up0 : down0) * w0[j], c1 = (x * w1[j] > 0 ? up1 : down1) * w1[j];
    const T c2 = (x * w2[j] > 0 ? up2 : down2) * w2[j], c3 = (x * w3[j] > 0 ? up3 : down3) * w3[j];
    c[j] += (c0 + c1) + (c2 + c3);
  }
}

template <class T>
XAI_CLONES void hand_back_one(const T* __restrict a, const T* __restrict w, Signed<T> s,
                              T* __restrict c, std::int64_t n) {
#pragma omp simd
  for (std::int64_t j = 0; j < n; ++j) c[j] += (a[j] * w[j] > 0 ? s.positive : s.negative) * w[j];
}

// Columns whose contributions are added up one after the other; the sums of so many are added to
// each other, which rounds less.
constexpr std::int64_t kChain = 1024;

template <class T, int G>
void contributions(const T* a, const T* const* w, Signed<T>* z, std::int64_t J) {
  std::fill(z, z + G, Signed<T>{0, 0});
  for (std::int64_t j = 0; j < J; j += kChain) {
    const T* rows[G];
    for (int g = 0; g < G; ++g) rows[g] = w[g] + j;
    add_contributions<T, G>(a + j, rows, z, std::min(kChain, J - j));
  }
}

// s+ and s- of one unit.
template <class T>
Signed<T> shares(T R, Signed<T> z, T b, const ZplusLinear& shape) {
  Signed<T> s{0, 0};
  for (std::int64_t p = 0; p < shape.parts; ++p) {
    const T positive = static_cast<T>(shape.part[p].positive);
    const T negative = static_cast<T>(shape.part[p].negative);
    const T own = b > 0 ? positive * b : negative * b;
    const T whole = positive * z.positive + negative * z.negative + own;
    const T quotient = stabilized_quotient<T>(R, whole, static_cast<T>(shape.eps));
    s.positive += static_cast<T>(shape.part[p].share) * positive * quotient;
    s.negative += static_cast<T>(shape.part[p].share) * negative * quotient;
  }
  return s;
}

// G units in all rows of relevance: while they are in the cache, both products.
template <class T, int G>
void add_units(const T* a, const T* R, const T* w, const T* b, T* c, const ZplusLinear& shape,
               const std::int64_t* units) {
  const T* rows[G];
  for (int g = 0; g < G; ++g) rows[g] = w + units[g] * shape.J;
  for (std::int64_t n = 0; n < shape.N; ++n) {
    const T* const x = a + n * shape.J;
    Signed<T> z[G], s[G];
    contributions<T, G>(x, rows, z, shape.J);
    for (std::int64_t t = 0; t < shape.targets; ++t) {
      const std::int64_t row = t * shape.N + n;
      bool used = false;
      for (int g = 0; g < G; ++g) {
        const T bias = b == nullptr ? T(0) : b[units[g]];
        s[g] = shares<T>(R[row * shape.K + units[g]], z[g], bias, shape);
        used |= !(s[g].positive == 0 && s[g].negative == 0);
      }
      if (!used) continue;
      T* const sums = c + row * shape.J;
      if constexpr (G == 4) {
        hand_back_four<T>(x, rows[0], rows[1], rows[2], rows[3], s, sums, shape.J);
      } else {
        for (int g = 0; g < G; ++g) hand_back_one<T>(x, rows[g], s[g], sums, shape.J);
      }
    }
  }
}

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
  std::int64_t i = begin;
  for (; i + kUnitsAtOnce <= end; i += kUnitsAtOnce) {
    add_units<T, kUnitsAtOnce>(a, R, w, b, c, shape, units + i);
  }
  for (; i < end; ++i) add_units<T, 1>(a, R, w, b, c, shape, units + i);
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

#define XAI_INSTANTIATE(T)                                                                         \
  template void zplus_linear<T>(const T*, const T*, const T*, const T*, T*, const ZplusLinear&,    \
                                const std::int64_t*, std::int64_t, std::int64_t);                  \
  template void sum_blocks<T>(const T*, const T*, T*, const ZplusLinear&, std::int64_t,            \
                              std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
