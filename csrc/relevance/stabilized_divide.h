// Stabilized division: the second step of Eq. 10.2's procedure.
//   s[t, i, j] = R[t, i, j] / (z' + eps sgn z')   with z' = z[i, j] + b[k]
//
// R [targets, rows, length]   relevance of the outputs
// z [rows, length]            denominators, shared by all targets
// b [channels] or null        bias, added to z: k = i mod channels where a row is a channel's plane
//                             (contiguous), k = j where a row is a pixel's channels (channels last)
// s like R                    overwritten; may be R, and may be z when targets == 1
//
// dtypes: float32, float64, bfloat16, float16 (the latter two computed in float32). Empty: nothing
// is written. z = 0 with eps = 0 gives 0 (0/0 = 0). Deterministic, the same on every device.
#pragma once

#include <cstdint>

namespace xaifast {

struct DivideShape {
  std::int64_t targets;
  std::int64_t rows;
  std::int64_t length;
  std::int64_t channels;
  bool channels_last;
};

// Rows [begin, end), all targets.
template <class T>
void stabilized_divide(const T* R, const T* z, const T* b, T* s, DivideShape shape, double eps,
                       std::int64_t begin, std::int64_t end);

}  // namespace xaifast
