#include "regression/design.h"

#include "regression/design_steps.h"

namespace xaifast {

template <class T>
void prepare(const Crew& crew, const T* X, const T* weight, const DesignShape& p, double* design) {
  prepare_with(crew, X, weight, design_at(design, p));
}

template <class T>
void prepare(const T* X, const T* weight, const DesignShape& p, double* design) {
  prepare_with(Solo{}, X, weight, design_at(design, p));
}

#define XAI_INSTANTIATE(T)                                                                \
  template void prepare<T>(const Crew&, const T*, const T*, const DesignShape&, double*); \
  template void prepare<T>(const T*, const T*, const DesignShape&, double*);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
