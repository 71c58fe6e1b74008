// The recurrent ops on a CUDA stream: one launch for all steps. The launchers return the error of
// the launch; an empty layer launches nothing. Letters and shapes: cell.h; a_, z_, h_ ... hold all
// steps, [T, N, ...].
#pragma once

#include <cuda_runtime.h>

#include "recurrent/cell.h"

namespace xaifast {

struct SequenceShape {
  std::int64_t targets, T, N, H;
  bool lstm;
  const std::int64_t* lengths;  // [N], the steps of each sample; null where all have T
};

// Units that a block holds the maps' inputs of in shared memory.
inline constexpr std::int64_t kMaxUnits = 512;

// w_t [H, 4 H or 3 H]: the recurrent weight transposed, so that neighbouring threads read
// neighbouring numbers. h[0] and c[0] hold the states at the start.
template <class T>
cudaError_t recurrent_states_cuda(const T* a, const T* w_t, const T* b, T* z, T* h, T* c,
                                  SequenceShape shape, cudaStream_t stream);

// w [H, or 4 H or 3 H, H]; R_h and R_c are overwritten by those of the first states.
template <class T>
cudaError_t recurrent_relprop_cuda(const T* z, const T* h, const T* c, const T* w, const T* b,
                                   const T* R, T* R_h, T* R_c, T* s, SequenceShape shape,
                                   GateRule rule, double eps, cudaStream_t stream);

}  // namespace xaifast
