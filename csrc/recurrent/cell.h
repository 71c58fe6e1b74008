// One step of a recurrent layer for some rows (samples), without the matrix products between steps.
//
// z [rows, 4, H]   pre-activations: i, f, g, o of an LSTM; r, u, n of a GRU and m, the recurrent
// map
//                  of n alone: z_n = a_n + r m
// h, c [rows, H]   state of the units, cell state of an LSTM; next: one step later
// R_h, R_c         relevance of the next state; R_c is overwritten by that of this one
// b [4, H]         what the denominators of the linear maps leave out; zeros where nothing is
// s [rows, B, H]   R / (z + eps sgn z) of the maps that x enters: B = 1 for kAll (g or n), else all
//                  (LSTM 4, GRU 3); s_h the same for the maps that h enters (an LSTM's are the
//                  same)
//
// dtypes: float32, float64. Deterministic. Nothing may overlap but what is said to be overwritten.
#pragma once

#include <cstdint>

namespace xaifast {

// What gates get (table 11.1): nothing, their share of the pre-activations, of their size, half.
enum class GateRule { kAll, kProp, kAbs, kHalf };

// z is complete; writes c_next and h_next.
template <class T>
void lstm_step(const T* z, const T* c, T* c_next, T* h_next, std::int64_t rows, std::int64_t H);

// a and q [rows, 3, H]: what x and what h add; writes z and h_next.
template <class T>
void gru_step(const T* a, const T* q, const T* h, T* z, T* h_next, std::int64_t rows,
              std::int64_t H);

template <class T>
void lstm_step_back(const T* z, const T* b, const T* c, const T* c_next, const T* R_h, T* R_c, T* s,
                    GateRule rule, double eps, std::int64_t rows, std::int64_t H);

// direct [rows, H]: what h gets beside the maps.
template <class T>
void gru_step_back(const T* z, const T* b, const T* h, const T* h_next, const T* R_h, T* direct,
                   T* s, T* s_h, GateRule rule, double eps, std::int64_t rows, std::int64_t H);

// R_h = h p + direct + R: p [rows, H] the backward product of the maps; direct and R may be null.
template <class T>
void gather_state(const T* h, const T* p, const T* direct, const T* R, T* R_h, std::int64_t n);

}  // namespace xaifast
