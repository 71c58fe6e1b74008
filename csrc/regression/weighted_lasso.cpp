#include "regression/weighted_lasso.h"

#include "regression/weighted_lasso_steps.h"

namespace xaifast {

template <class T>
void prepare_target(const double* design, const T* y, const DesignShape& p, double* target) {
  prepare_target_with(Solo{}, design, y, p, target);
}

void descend(const double* design, const double* target, const double* Q, const double* q,
             const DesignShape& p, const LassoRule& rule, double* work, double* coef,
             double* intercept, double* gap) {
  descend_with(Solo{}, design, target, Q, q, p, rule, work, coef, intercept, gap);
}

template void prepare_target<float>(const double*, const float*, const DesignShape&, double*);
template void prepare_target<double>(const double*, const double*, const DesignShape&, double*);

}  // namespace xaifast
