#include "regression/weighted_least_squares.h"

#include "regression/weighted_least_squares_steps.h"

namespace xaifast {

void factorize(const Crew& crew, const DesignShape& p, double* design) {
  factorize_with(crew, factors_at(design, p));
}

void factorize(const DesignShape& p, double* design) {
  factorize_with(Solo{}, factors_at(design, p));
}

template <class T>
void solve(const double* design, const T* y, const DesignShape& p, double* work, double* coef,
           double* intercept) {
  solve_with(Solo{}, design, y, p, work, coef, intercept);
}

#define XAI_INSTANTIATE(T) \
  template void solve<T>(const double*, const T*, const DesignShape&, double*, double*, double*);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
