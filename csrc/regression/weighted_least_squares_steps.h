// The steps of weighted_least_squares.h, for any team (team.h).
#pragma once

#include "regression/design_steps.h"
#include "regression/weighted_least_squares.h"

namespace xaifast {

inline constexpr double kEpsilon = 0x1p-52;

XAI_DEVICE inline Factors factors_at(double* workspace, const DesignShape& p) {
  double* next = workspace + design_size(p);
  const auto take = [&](std::int64_t n) {
    double* taken = next;
    next += n;
    return taken;
  };
  Factors f;
  static_cast<Design&>(f) = design_at(workspace, p);
  f.order = reinterpret_cast<std::int64_t*>(take(p.M));
  f.left = take(p.M);
  f.left_then = take(p.M);
  f.tau = take(p.M);
  f.diagonal = take(p.M);
  f.fold_tau = take(p.M);
  f.overlap = take(p.M * kBlock);
  f.pending = take(p.M * kBlock);
  f.across = take(kBlock);
  f.R = take(most_pivots(p) * most_pivots(p));
  f.fold = take(fold_size(p));
  return f;
}

XAI_DEVICE inline double* column_of_R(const Factors& f, std::int64_t j) {
  return f.R + j * most_pivots(f.p);
}

// Makes the reflection I - tau v v^T that takes (head, tail) to (result, 0): v = (1, tail) is
// written over tail. `norm` is that of (head, tail), not zero.
struct Reflection {
  double result;
  double tau;
};

template <class Team>
XAI_DEVICE Reflection reflection(const Team& team, double head, double norm, double* tail,
                                 std::int64_t n) {
  const double result = std::copysign(norm, -head);
  const double scale = 1 / (head - result);
  team.each(n, [&](std::int64_t i) { tail[i] *= scale; });
  return {result, (result - head) / result};
}

// ---- A P = Q R --------------------------------------------------------------------------------

// The place from j on whose column has most left; a NaN goes first, so that it is not lost.
template <class Team>
XAI_DEVICE std::int64_t largest_place(const Team& team, const Factors& f, std::int64_t j) {
  const auto n = static_cast<double>(f.p.M - j);
  const auto left = [&](std::int64_t i) {
    return std::isnan(f.left[j + i]) ? HUGE_VAL : f.left[j + i];
  };
  const double most = team.max(f.p.M - j, 0.0, left);
  const double place = -team.max(f.p.M - j, -n, [&](std::int64_t i) {
    return left(i) == most ? -static_cast<double>(i) : -n;
  });
  return j + static_cast<std::int64_t>(place);
}

template <class Team>
XAI_DEVICE void swap_places(const Team& team, const Factors& f, std::int64_t i, std::int64_t j) {
  const std::int64_t order = f.order[i];
  const double left = f.left[i], left_then = f.left_then[i];
  team.set(f.order + i, f.order[j]);
  team.set(f.left + i, f.left[j]);
  team.set(f.left_then + i, f.left_then[j]);
  team.set(f.order + j, order);
  team.set(f.left + j, left);
  team.set(f.left_then + j, left_then);
}

// The end of the block of reflectors that begins there.
XAI_DEVICE inline std::int64_t block_end(const Factors& f, std::int64_t begin, std::int64_t limit) {
  const std::int64_t end = begin + (begin < f.facts->heavy ? 1 : kBlock);
  return end < limit ? end : limit;
}

// The column at place i, which is a reflector if it has been a pivot, from row `row` on.
XAI_DEVICE inline double* column_at(const Factors& f, std::int64_t i, std::int64_t row) {
  return f.columns + f.order[i] * f.p.rows() + row;
}

// Subtracts what the columns at the places k, ... have to take in of the reflectors `begin`, ...,
// j - 1, in their rows from `row` on.
template <class Team>
XAI_DEVICE void catch_up(const Team& team, const Factors& f, std::int64_t k, std::int64_t count,
                         std::int64_t begin, std::int64_t j, std::int64_t row) {
  double* columns[kColumns] = {};
  double* pending[kColumns] = {};
  for (int i = 0; i < kColumns; ++i) {
    if (i >= count) break;
    columns[i] = column_at(f, k + i, row);
    pending[i] = f.pending + f.order[k + i] * kBlock;
  }
  team.subtract(
      columns, count, f.p.rows() - row, j - begin,
      [&](std::int64_t b) { return column_at(f, begin + b, row); },
      [&](std::int64_t i, std::int64_t b) { return pending[i][b]; });
}

// use(i, product of z [rows - row] with reflector i) for i = begin, ..., end - 1.
template <class Team, class F>
XAI_DEVICE void multiply_block(const Team& team, const Factors& f, std::int64_t begin,
                               std::int64_t end, std::int64_t row, const double* z, const F& use) {
  for (std::int64_t b = begin; b < end; b += kColumns) {
    const std::int64_t count = end - b < kColumns ? end - b : kColumns;
    const double* v[kColumns] = {};
    double products[kColumns] = {};
    for (int i = 0; i < kColumns; ++i) {
      if (i < count) v[i] = column_at(f, b + i, row);
    }
    team.dots(z, v, count, products, f.p.rows() - row);
    for (int i = 0; i < kColumns; ++i) {
      if (i < count) use(b + i, products[i]);
    }
  }
}

// Moves the largest column to place j and makes its reflector, or ends the factorization with
// rank j.
template <class Team>
XAI_DEVICE void pivot(const Team& team, const Factors& f, std::int64_t begin, std::int64_t j) {
  swap_places(team, f, j, largest_place(team, f, j));
  catch_up(team, f, j, 1, begin, j, j);
  const std::int64_t n = f.p.rows() - j;
  double* a = column_at(f, j, j);
  const double norm = std::sqrt(team.dot(a, a, n));
  const double largest = j == 0 ? norm : std::fabs(f.diagonal[0]);
  const double cut = kEpsilon * static_cast<double>(f.p.S > f.p.M ? f.p.S : f.p.M) * largest;
  if (norm <= cut) return;  // never for a NaN, which is to be seen
  const Reflection r = reflection(team, a[0], norm, a + 1, n - 1);
  team.set(a, 1.0);
  team.each(j, [&](std::int64_t i) {
    column_of_R(f, j)[i] = (a - j)[i];
    (a - j)[i] = 0;
  });
  team.set(f.diagonal + j, r.result);
  team.set(f.tau + j, r.tau);
  multiply_block(team, f, begin, j, j, a, [&](std::int64_t b, double product) {
    team.set(f.overlap + j * kBlock + b - begin, product);
    team.set(f.across + b - begin, *column_at(f, b, j));
  });
  team.set(&f.facts->rank, j + 1);
}

// What the column at place k has to take in of reflector j: `pending` has the product of the two
// in its place already, and need not know the column itself up to date. Row j of R is brought up to
// date, and taken out of what is left of the column. The square is subtracted, and all of them are
// summed up again when half of the digits are lost.
template <class Team>
XAI_DEVICE void note_reflector(const Team& team, const Factors& f, std::int64_t begin,
                               std::int64_t j, std::int64_t k) {
  double* pending = f.pending + f.order[k] * kBlock;
  double* a = column_at(f, k, j);
  double product = pending[j - begin], row = 0;
  XAI_NO_UNROLL
  for (std::int64_t b = 0; b < j - begin; ++b) {
    product -= pending[b] * f.overlap[j * kBlock + b];
    row += pending[b] * f.across[b];
  }
  const double multiple = f.tau[j] * product, R = a[0] - (row + multiple);
  team.set(pending + j - begin, multiple);
  team.set(a, R);
  const double left = f.left[k] - R * R;
  if (left > 0x1p-26 * f.left_then[k]) return team.set(f.left + k, left);
  catch_up(team, f, k, 1, begin, j + 1, j + 1);
  team.each(j + 1 - begin, [&](std::int64_t b) { pending[b] = 0; });
  const double again = team.dot(a + 1, a + 1, f.p.rows() - j - 1);
  team.set(f.left + k, again);
  team.set(f.left_then + k, again);
}

// The same for the g-th group of kColumns columns behind reflector j.
template <class Team>
XAI_DEVICE void note_group(const Team& team, const Factors& f, std::int64_t begin, std::int64_t j,
                           std::int64_t g) {
  const std::int64_t k = j + 1 + g * kColumns;
  const std::int64_t count = f.p.M - k < kColumns ? f.p.M - k : kColumns;
  const double* columns[kColumns] = {};
  double products[kColumns] = {};
  for (int i = 0; i < kColumns; ++i) {
    if (i < count) columns[i] = column_at(f, k + i, j);
  }
  team.dots(column_at(f, j, j), columns, count, products, f.p.rows() - j);
  for (int i = 0; i < kColumns; ++i) {
    if (i < count) team.set(f.pending + f.order[k + i] * kBlock + j - begin, products[i]);
  }
  XAI_NO_UNROLL
  for (std::int64_t i = 0; i < count; ++i) note_reflector(team, f, begin, j, k + i);
}

XAI_DEVICE inline std::int64_t groups_of(std::int64_t columns) {
  return (columns + kColumns - 1) / kColumns;
}

// The largest rank that the samples allow: a mean takes one dimension from them.
XAI_DEVICE inline std::int64_t most_rank(const Factors& f) {
  const std::int64_t rows = f.facts->count - (is_centred(f) ? 1 : 0) + f.p.rows() - f.p.S;
  return rows < f.p.M ? rows : f.p.M;
}

template <class Team>
XAI_DEVICE void triangularize(const Team& team, const Factors& f) {
  team.once([&] {
    team.each(f.p.M, [&](std::int64_t k) {
      f.order[k] = k;
      f.left[k] = f.left_then[k] = f.squares[k];
    });
  });
  const std::int64_t limit = most_rank(f);
  for (std::int64_t begin = 0, end = 0; begin < limit; begin = end) {
    end = block_end(f, begin, limit);
    for (std::int64_t j = begin; j < end; ++j) {
      team.once([&] { pivot(team, f, begin, j); });
      if (f.facts->rank == j) return;
      team.share(groups_of(f.p.M - j - 1), kColumns * (f.p.rows() - j),
                 [&](std::int64_t g) { note_group(team, f, begin, j, g); });
    }
    team.share(groups_of(f.p.M - end), kColumns * kBlock * (f.p.rows() - end), [&](std::int64_t g) {
      const std::int64_t k = end + g * kColumns;
      const std::int64_t count = f.p.M - k < kColumns ? f.p.M - k : kColumns;
      catch_up(team, f, k, count, begin, end, end);
    });
  }
}

// ---- [R11 R12] = [T 0] Z^T --------------------------------------------------------------------

// Row i of R12 is folded into the diagonal by a reflection of the dimensions i, r, ..., M - 1, from
// the last row to the first, so that R11 stays a triangle.
template <class Team>
XAI_DEVICE void fold(const Team& team, const Factors& f) {
  const std::int64_t r = f.facts->rank, n = f.p.M - r;
  if (n == 0) return;
  team.share(r, n, [&](std::int64_t i) {
    team.each(
        n, [&](std::int64_t k) { f.fold[i * n + k] = f.columns[f.order[r + k] * f.p.rows() + i]; });
  });
  for (std::int64_t i = r - 1; i >= 0; --i) {
    double* v = f.fold + i * n;
    double* column = column_of_R(f, i);
    team.once([&] {
      const double head = f.diagonal[i];
      const double norm = std::sqrt(head * head + team.dot(v, v, n));
      const Reflection s = reflection(team, head, norm, v, n);
      team.set(f.diagonal + i, s.result);
      team.set(f.fold_tau + i, s.tau);
    });
    team.share(i, 2 * n, [&](std::int64_t k) {
      double* row = f.fold + k * n;
      const double s = f.fold_tau[i] * (column[k] + team.dot(v, row, n));
      team.add_multiple(-s, v, row, n);
      team.set(column + k, column[k] - s);
    });
  }
}

template <class Team>
XAI_DEVICE void factorize_with(const Team& team, const Factors& f) {
  triangularize(team, f);
  fold(team, f);
}

// ---- one problem ------------------------------------------------------------------------------

// z = Q^T z, a block of reflectors after the other; work [kBlock].
template <class Team>
XAI_DEVICE void reflect(const Team& team, const Factors& f, double* z, double* work) {
  const std::int64_t r = f.facts->rank;
  for (std::int64_t begin = 0, end = 0; begin < r; begin = end) {
    end = block_end(f, begin, r);
    double* rest = z + begin;
    multiply_block(team, f, begin, end, begin, rest, [&](std::int64_t j, double product) {
      for (std::int64_t b = 0; b < j - begin; ++b) product -= work[b] * f.overlap[j * kBlock + b];
      team.set(work + j - begin, f.tau[j] * product);
    });
    team.subtract(
        &rest, 1, f.p.rows() - begin, end - begin,
        [&](std::int64_t b) { return column_at(f, begin + b, begin); },
        [&](std::int64_t, std::int64_t b) { return work[b]; });
  }
}

// z = T^-1 z
template <class Team>
XAI_DEVICE void substitute(const Team& team, const Factors& f, double* z) {
  for (std::int64_t i = f.facts->rank - 1; i >= 0; --i) {
    const double zi = z[i] / f.diagonal[i];
    team.set(z + i, zi);
    team.add_multiple(-zi, column_of_R(f, i), z, i);
  }
}

// (z, tail) = Z (z, 0)
template <class Team>
XAI_DEVICE void unfold(const Team& team, const Factors& f, double* z, double* tail) {
  const std::int64_t r = f.facts->rank, n = f.p.M - r;
  team.each(n, [&](std::int64_t k) { tail[k] = 0; });
  if (n == 0) return;
  for (std::int64_t i = 0; i < r; ++i) {
    const double* v = f.fold + i * n;
    const double s = f.fold_tau[i] * (z[i] + team.dot(v, tail, n));
    team.add_multiple(-s, v, tail, n);
    team.set(z + i, z[i] - s);
  }
}

template <class T, class Team>
XAI_DEVICE void solve_with(const Team& team, const double* design, const T* y, const DesignShape& p,
                           double* work, double* coef, double* intercept) {
  const Factors f = factors_at(const_cast<double*>(design), p);
  const std::int64_t r = f.facts->rank;
  double* z = work;
  double* tail = work + f.p.rows();
  const Target target = prepare_target(team, y, f, z);
  reflect(team, f, z, tail + f.p.M);
  substitute(team, f, z);
  unfold(team, f, z, tail);
  const auto c = [&](std::int64_t i) { return i < r ? z[i] : tail[i - r]; };
  const double offset = team.sum(f.p.M, [&](std::int64_t i) { return c(i) * f.mean[f.order[i]]; });
  const std::int64_t scale = target.y_scale - f.facts->x_scale;
  team.each(f.p.M, [&](std::int64_t i) { coef[f.order[i]] = scaled(c(i), scale); });
  const double c0 = f.p.intercept ? target.mean - offset : 0.0;
  team.set(intercept, scaled(c0, target.y_scale));
}

}  // namespace xaifast
