// The leaf loops of the regression kernels on the CPU: what one thread does with vectors of
// float64. Sums are taken in the same order whatever the instruction set, so that every machine
// gives the same result. No vector that is written may overlap another.
#pragma once

#include <cstdint>

namespace xaifast {

// Columns that one pass over other vectors serves.
inline constexpr std::int64_t kColumns = 4;
// Vectors that subtract_products takes.
inline constexpr std::int64_t kTile = 4;

// sum_i x_i y_i
double dot(const double* x, const double* y, std::int64_t n);

// The same of v with each of `count` <= kColumns columns [n].
void dots(const double* v, const double* const* columns, std::int64_t count, double* products,
          std::int64_t n);

// y += s x
void add_multiple(double s, const double* x, double* y, std::int64_t n);

// a_k -= sum_b f_kb v_b for `count` <= kColumns columns a [n], kTile vectors v [n] and
// f [count, kTile].
void subtract_products(const double* f, const double* const* v, double* const* columns,
                       std::int64_t count, std::int64_t n);

// max_i |x_i|, 0 for none
template <class T>
double largest(const T* x, std::int64_t n);

}  // namespace xaifast
