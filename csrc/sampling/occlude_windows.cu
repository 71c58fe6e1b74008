#include "common/launch.cuh"
#include "sampling/kernels_cuda.h"
#include "sampling/occlude_windows_element.h"

namespace xaifast {
template <class Word>
cudaError_t occlude_windows_cuda(const Word* x, const Word* baseline, Word* out,
                                 const OccludeShape& shape, cudaStream_t stream) {
  const BatchShape& batch = shape.batch;
  if (batch.rows == 0 || batch.size == 0) return cudaSuccess;
  const RepeatElement<Word> repeat{x, out, batch.samples * batch.size, batch.rows / batch.samples};
  const cudaError_t error = launch_packs<kPackWidth<Word>>(repeat, stream);
  if (error != cudaSuccess) return error;
  return launch<1>(CoverElement<Word>{baseline, out, shape}, stream);
}

#define XAI_INSTANTIATE(Word)                                                      \
  template cudaError_t occlude_windows_cuda<Word>(const Word*, const Word*, Word*, \
                                                  const OccludeShape&, cudaStream_t);
XAI_INSTANTIATE(std::uint16_t)
XAI_INSTANTIATE(std::uint32_t)
XAI_INSTANTIATE(std::uint64_t)
#undef XAI_INSTANTIATE

}  // namespace xaifast
