// Weighted least squares and ridge regression for small problems, by a rank-revealing QR:
//   min over c, c0 of  sum_s weight_s (y_s - x_s c - c0)^2 + ridge |c|^2
// With A and b of design.h:  A P = Q [R11 R12]  by Householder reflections with column pivoting,
// then, if the rank r is less than M,  [R11 R12] = [T 0] Z^T  (a complete orthogonal
// decomposition), and  c = P Z [T^-1 (Q^T b)_r; 0]  is the solution of the smallest norm. The
// normal equations, whose condition is the square, are never formed.
//
// y [S], coef [M] and intercept [1] overwritten. The rank is the number of pivots above eps max(S,
// M) times the first, eps = 2^-52, and at most what the number of samples allows. No sample that
// counts: zeros. No feature: the intercept is the weighted mean of y. Without an intercept it is 0.
// Finite input never gives a NaN. dtypes: float32 and float64, computed in float64. Deterministic.
#pragma once

#include "regression/design.h"
#include "regression/team.h"

namespace xaifast {

// Reflectors that the columns behind them take in at once. Until then only their products with each
// new reflector are known, and their row of R: half of the work, at a tenth of the memory traffic
// (as LAPACK's dlaqps does). Heavy rows would drown the light ones in these products, so while
// there are any, a block is one reflector.
inline constexpr std::int64_t kBlock = 8;

// Where the factors lie behind the design. The reflectors take the place of the columns of A: the
// pivot at place j leaves v = (0, ..., 0, 1, v_j+1, ...), for the reflection I - tau v v^T.
struct Factors : Design {
  std::int64_t* order;  // [M]: the column at each place; the first r are the pivots
  double* left;         // [M]: square of the norm of what is left of the column at each place
  double* left_then;    // [M]: the same when it was last summed up
  double* tau;          // [M]
  double* diagonal;     // [M] of R11, then of T
  double* fold_tau;     // [M]: of the reflections in Z
  double* overlap;      // [M, kBlock]: products of a reflector with those before it in its block
  double* pending;      // [M, kBlock] by column: multiples of these that it has not taken in
  double* across;       // [kBlock]: the row of the newest pivot in the reflectors of its block
  double* R;            // [n, n] by column, n = most_pivots: R11 above its diagonal, then T
  double* fold;         // [r, M - r]: R12, then the reflectors of Z
};

XAI_HOST_DEVICE inline std::int64_t most_pivots(const DesignShape& p) {
  return p.rows() < p.M ? p.rows() : p.M;
}
XAI_HOST_DEVICE inline std::int64_t fold_size(const DesignShape& p) {
  const std::int64_t r = most_pivots(p) < p.M / 2 ? most_pivots(p) : p.M / 2;
  return r * (p.M - r);  // the largest r (M - r)
}

// Numbers of workspace of one factorized design, and of one problem.
XAI_HOST_DEVICE inline std::int64_t factors_size(const DesignShape& p) {
  return design_size(p) + (6 + 2 * kBlock) * p.M + kBlock + most_pivots(p) * most_pivots(p) +
         fold_size(p);
}
XAI_HOST_DEVICE inline std::int64_t solution_size(const DesignShape& p) {
  return p.rows() + p.M + kBlock;
}

// Factorizes a prepared design (design.h) in its workspace [factors_size], with the threads of a
// crew or alone.
void factorize(const Crew& crew, const DesignShape& p, double* design);
void factorize(const DesignShape& p, double* design);

// Solves one problem of a factorized design. work [solution_size] is overwritten.
template <class T>
void solve(const double* design, const T* y, const DesignShape& p, double* work, double* coef,
           double* intercept);

}  // namespace xaifast
