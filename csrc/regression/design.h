// The weighted, centred design of a regression, as every solver here starts from it:
//   A_sk = root_s (x_sk - mean_k),   b_s = root_s (y_s - mean_y),   root_s = sqrt(weight_s)
// with the weighted means of the samples that count (weight > 0) where there is an intercept, and
// zero means where there is none. So
//   sum_s weight_s (y_s - x_s c - c0)^2 = |b - A c|^2   for   c0 = mean_y - mean c,
// which is the best c0. A ridge penalty is |0 - sqrt(ridge) c|^2: M more rows of A and b.
//
// Rows go from large to small, so that the light samples keep their digits beside the heavy ones in
// a QR (Cox and Higham 1998, "Stability of Householder QR factorization for weighted least squares
// problems"). Everything is scaled by powers of two (X, y and weight each by their own), so that no
// square overflows, and the result is scaled back: this changes no digit. Samples of weight 0 are
// never read into a sum. Means are taken relative to the heaviest sample, whose row they would
// otherwise leave as a difference of near numbers; and a constant column becomes exactly zero.
//
// X [S, M] row-major, weight [S] >= 0. dtypes: float32 and float64, computed in float64.
#pragma once

#include <cstdint>

#include "common/stabilizer.h"
#include "regression/team.h"

namespace xaifast {

struct DesignShape {
  std::int64_t S;  // samples
  std::int64_t M;  // features
  double ridge;
  bool intercept;

  XAI_HOST_DEVICE std::int64_t rows() const { return S + (ridge > 0 ? M : 0); }
};

struct DesignFacts {
  std::int64_t heaviest;  // sample
  std::int64_t count;     // samples that count
  std::int64_t heavy;     // rows that are much larger than most; they come first
  std::int64_t rank;      // of the factorization
  double total;           // sum_s root_s^2
  std::int64_t x_scale;   // X, and the root of the ridge, were divided by 2^x_scale
  std::int64_t w_scale;   // weight was divided by 2^w_scale, which is even
};

// Where the parts of a design lie in its workspace.
struct Design {
  DesignShape p;
  DesignFacts* facts;
  std::int64_t* place;  // [rows]: the row of each sample, then of each feature's ridge
  double* root;         // [rows]: 0 in the ridge's
  double* weight_root;  // [rows]: root by sample; needed no more when root is there
  double* mean;         // [M]
  double* squares;      // [M]: of the norms of the columns
  double* columns;      // [M, rows]: A, a column after the other
};

inline constexpr std::int64_t kFacts = sizeof(DesignFacts) / sizeof(double);

// Where in the workspace the columns begin, and how many numbers it has.
XAI_HOST_DEVICE inline std::int64_t columns_begin(const DesignShape& p) {
  return kFacts + 3 * p.rows() + 2 * p.M;
}
XAI_HOST_DEVICE inline std::int64_t design_size(const DesignShape& p) {
  return columns_begin(p) + p.M * p.rows();
}

// Prepares a design in its workspace [design_size], with the threads of a crew or alone.
template <class T>
void prepare(const Crew& crew, const T* X, const T* weight, const DesignShape& p, double* design);
template <class T>
void prepare(const T* X, const T* weight, const DesignShape& p, double* design);

// What was found about the target of one problem.
struct Target {
  double mean;
  std::int64_t y_scale;  // y was divided by 2^y_scale
};

}  // namespace xaifast
