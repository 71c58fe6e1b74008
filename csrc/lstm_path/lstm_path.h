// Gradients of an LSTM along the straight path from a baseline to a sample, summed over the nodes
// of a quadrature. What enters the gates is linear in the position on the path, so the projection
// of the inputs is made once for each end and not at the nodes:
//   a_t = start_t + alpha change_t + W h_{t-1}                          [4H]: gates i, f, g, o
//   i = sigma(a_i), f = sigma(a_f), g = tanh(a_g), o = sigma(a_o)
//   c_t = f c_{t-1} + i g,   h_t = o tanh(c_t),   h_{-1} = c_{-1} = 0
// A target m is S_m = seed_h . h_s + seed_c . c_s at its step s. Backwards from there
// (book, 19.2.3):
//   dc += dh o (1 - tanh(c)^2)
//   da = [dc g i (1 - i), dc c_{t-1} f (1 - f), dc i (1 - g^2), dh tanh(c) o (1 - o)]
//   dh = W^T da,   dc = dc f
// Results, with the weights of the quadrature:
//   total[m, t] += sum_k weight[m, k] da_t(alpha_k)
//   S[m, k], and slope[m, k] = dS / dalpha = sum_t change_t . da_t
//
// kLanes nodes go together, each array is [.., kLanes]. Gates are kept for `segment` steps; where
// that is less than T, the states at the start of each segment are kept as well, and the gates of
// all segments but the last are computed anew on the way back.
// dtypes: float32 and float64; totals in float64. Deterministic.
#pragma once

#include <cstdint>

#include "common/stabilizer.h"

namespace xaifast {

// Nodes that go together on the CPU: 128 bytes.
template <class T>
inline constexpr std::int64_t kLanes = 128 / sizeof(T);
// Outputs of a product that are computed together; rows of w_t are padded to a multiple of it.
inline constexpr std::int64_t kTogether = 4;

struct LstmShape {
  std::int64_t steps;    // T
  std::int64_t hidden;   // H
  std::int64_t targets;  // M
  std::int64_t nodes;    // K
  std::int64_t segment;  // steps whose gates are kept

  XAI_HOST_DEVICE std::int64_t gates() const { return 4 * hidden; }
  XAI_HOST_DEVICE std::int64_t padded() const {
    return (hidden + kTogether - 1) / kTogether * kTogether;
  }
  XAI_HOST_DEVICE std::int64_t segments() const {
    return segment > 0 ? (steps + segment - 1) / segment : 0;
  }
};

// One sample.
template <class T>
struct LstmPath {
  const T* start;            // [T, 4H] W_ih x' + b
  const T* change;           // [T, 4H] W_ih (x - x')
  const T* w;                // [4H, H]
  const T* w_t;              // [padded, 4H], zeros in the padding
  const double* alpha;       // [K]
  const double* weight;      // [M, K], from one target to the next weight_step
  const T* seed_h;           // [M, H], seed_step
  const T* seed_c;           // [M, H], seed_step
  const std::int64_t* step;  // [M], step_step; in [0, T)
  std::int64_t weight_step, seed_step, step_step;
};

// All samples, dense; each path is cut into parts, whole groups of `lanes` nodes.
template <class T>
struct LstmBatch {
  LstmPath<T> first;  // of sample 0
  LstmShape shape;
  bool one_start;  // that serves all samples
  std::int64_t parts;
  std::int64_t lanes;

  XAI_HOST_DEVICE LstmPath<T> path(std::int64_t n) const {
    LstmPath<T> p = first;
    const std::int64_t row = n * shape.steps * shape.gates();
    p.start += one_start ? 0 : row;
    p.change += row;
    p.alpha += n * shape.nodes;
    p.weight += n * shape.nodes;
    p.seed_h += n * shape.hidden;
    p.seed_c += n * shape.hidden;
    p.step += n;
    return p;
  }

  // The first node of a part.
  XAI_HOST_DEVICE std::int64_t begin_of(std::int64_t part) const {
    const std::int64_t groups = (shape.nodes + lanes - 1) / lanes;
    const std::int64_t k = part * groups / parts * lanes;
    return k < shape.nodes ? k : shape.nodes;
  }
};

// Numbers of workspace.
std::int64_t lstm_path_work(const LstmShape& p, std::int64_t lanes);

// The nodes [begin, end) of one sample. total [M, T, 4H] is added to; S and slope [M, K], with
// weight_step between targets, are overwritten at these nodes.
template <class T>
void lstm_path(const LstmPath<T>& path, const LstmShape& shape, std::int64_t begin,
               std::int64_t end, T* work, double* total, double* S, double* slope);

}  // namespace xaifast
