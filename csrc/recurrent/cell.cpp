#include "recurrent/cell.h"

#include "common/clones.h"
#include "recurrent/cell_element.h"

namespace xaifast {
namespace {

template <class T>
XAI_CLONES void lstm_row(const T* __restrict z, const T* __restrict c, T* __restrict c_next,
                         T* __restrict h_next, std::int64_t H) {
#pragma omp simd
  for (std::int64_t j = 0; j < H; ++j) {
    T c1, h1;
    lstm_unit(z[j], z[H + j], z[2 * H + j], z[3 * H + j], c[j], c1, h1);
    c_next[j] = c1;
    h_next[j] = h1;
  }
}

template <class T>
XAI_CLONES void gru_row(const T* __restrict a, const T* __restrict q, const T* __restrict h,
                        T* __restrict z, T* __restrict h_next, std::int64_t H) {
#pragma omp simd
  for (std::int64_t j = 0; j < H; ++j) {
    const T aj[3] = {a[j], a[H + j], a[2 * H + j]}, qj[3] = {q[j], q[H + j], q[2 * H + j]};
    T zj[4], h1;
    gru_unit(aj, qj, h[j], zj, h1);
    z[j] = zj[0];
    z[H + j] = zj[1];
    z[2 * H + j] = zj[2];
    z[3 * H + j] = zj[3];
    h_next[j] = h1;
  }
}

template <GateRule rule, class T>
XAI_CLONES void lstm_row_back(const T* __restrict z, const T* __restrict b, const T* __restrict c,
                              const T* __restrict c_next, const T* __restrict R_h,
                              T* __restrict R_c, T* __restrict s, T eps, std::int64_t H) {
#pragma omp simd
  for (std::int64_t j = 0; j < H; ++j) {
    const T zj[4] = {z[j], z[H + j], z[2 * H + j], z[3 * H + j]};
    const T dj[4] = {zj[0] - b[j], zj[1] - b[H + j], zj[2] - b[2 * H + j], zj[3] - b[3 * H + j]};
    T sj[4], R = R_c[j];
    lstm_unit_back<rule>(zj, dj, c[j], c_next[j], R_h[j], R, eps, sj);
    R_c[j] = R;
    if constexpr (rule == GateRule::kAll) {
      s[j] = sj[2];
    } else {
      s[j] = sj[0];
      s[H + j] = sj[1];
      s[2 * H + j] = sj[2];
      s[3 * H + j] = sj[3];
    }
  }
}

template <GateRule rule, class T>
XAI_CLONES void gru_row_back(const T* __restrict z, const T* __restrict b, const T* __restrict h,
                             const T* __restrict h_next, const T* __restrict R_h,
                             T* __restrict direct, T* __restrict s, T* __restrict s_h, T eps,
                             std::int64_t H) {
#pragma omp simd
  for (std::int64_t j = 0; j < H; ++j) {
    const T zj[4] = {z[j], z[H + j], z[2 * H + j], z[3 * H + j]};
    const T dj[4] = {zj[0] - b[j], zj[1] - b[H + j], zj[2] - b[2 * H + j], zj[3] - b[3 * H + j]};
    T sj[4], R;
    gru_unit_back<rule>(zj, dj, h[j], h_next[j], R_h[j], R, eps, sj);
    direct[j] = R;
    if constexpr (rule == GateRule::kAll) {
      s[j] = sj[2];
      s_h[j] = sj[3];
    } else {
      s[j] = s_h[j] = sj[0];
      s[H + j] = s_h[H + j] = sj[1];
      s[2 * H + j] = sj[2];
      s_h[2 * H + j] = sj[3];
    }
  }
}

template <class T>
XAI_CLONES void gather(const T* __restrict h, const T* __restrict p, const T* __restrict direct,
                       const T* __restrict R, T* __restrict R_h, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) R_h[i] = h[i] * p[i];
  if (direct != nullptr) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) R_h[i] += direct[i];
  }
  if (R != nullptr) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) R_h[i] += R[i];
  }
}

// f.operator()<rule>() for the rule of this call.
template <class F>
void with_rule(GateRule rule, const F& f) {
  switch (rule) {
    case GateRule::kAll:
      return f.template operator()<GateRule::kAll>();
    case GateRule::kProp:
      return f.template operator()<GateRule::kProp>();
    case GateRule::kAbs:
      return f.template operator()<GateRule::kAbs>();
    case GateRule::kHalf:
      return f.template operator()<GateRule::kHalf>();
  }
}

}  // namespace

template <class T>
void lstm_step(const T* z, const T* c, T* c_next, T* h_next, std::int64_t rows, std::int64_t H) {
  for (std::int64_t i = 0; i < rows; ++i) {
    lstm_row(z + 4 * i * H, c + i * H, c_next + i * H, h_next + i * H, H);
  }
}

template <class T>
void gru_step(const T* a, const T* q, const T* h, T* z, T* h_next, std::int64_t rows,
              std::int64_t H) {
  for (std::int64_t i = 0; i < rows; ++i) {
    gru_row(a + 3 * i * H, q + 3 * i * H, h + i * H, z + 4 * i * H, h_next + i * H, H);
  }
}

template <class T>
void lstm_step_back(const T* z, const T* b, const T* c, const T* c_next, const T* R_h, T* R_c, T* s,
                    GateRule rule, double eps, std::int64_t rows, std::int64_t H) {
  const std::int64_t width = rule == GateRule::kAll ? H : 4 * H;
  with_rule(rule, [&]<GateRule r>() {
    for (std::int64_t i = 0; i < rows; ++i) {
      lstm_row_back<r>(z + 4 * i * H, b, c + i * H, c_next + i * H, R_h + i * H, R_c + i * H,
                       s + i * width, T(eps), H);
    }
  });
}

template <class T>
void gru_step_back(const T* z, const T* b, const T* h, const T* h_next, const T* R_h, T* direct,
                   T* s, T* s_h, GateRule rule, double eps, std::int64_t rows, std::int64_t H) {
  const std::int64_t width = rule == GateRule::kAll ? H : 3 * H;
  with_rule(rule, [&]<GateRule r>() {
    for (std::int64_t i = 0; i < rows; ++i) {
      gru_row_back<r>(z + 4 * i * H, b, h + i * H, h_next + i * H, R_h + i * H, direct + i * H,
                      s + i * width, s_h + i * width, T(eps), H);
    }
  });
}

template <class T>
void gather_state(const T* h, const T* p, const T* direct, const T* R, T* R_h, std::int64_t n) {
  gather(h, p, direct, R, R_h, n);
}

#define XAI_INSTANTIATE(T)                                                                     \
  template void lstm_step<T>(const T*, const T*, T*, T*, std::int64_t, std::int64_t);          \
  template void gru_step<T>(const T*, const T*, const T*, T*, T*, std::int64_t, std::int64_t); \
  template void lstm_step_back<T>(const T*, const T*, const T*, const T*, const T*, T*, T*,    \
                                  GateRule, double, std::int64_t, std::int64_t);               \
  template void gru_step_back<T>(const T*, const T*, const T*, const T*, const T*, T*, T*, T*, \
                                 GateRule, double, std::int64_t, std::int64_t);                \
  template void gather_state<T>(const T*, const T*, const T*, const T*, T*, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
