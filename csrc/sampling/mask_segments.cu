#include "common/launch.cuh"
#include "sampling/kernels_cuda.h"
#include "sampling/mask_segments_element.h"

namespace xaifast {

template <class Word>
cudaError_t mask_segments_cuda(const Word* x, const Word* baseline, const std::int64_t* labels,
                               const std::uint8_t* on, const std::int64_t* sample, Word* out,
                               const MaskShape& shape, cudaStream_t stream) {
  const MaskElement<Word> element{x, baseline, labels, on, sample, out, shape};
  return launch_packs<kPackWidth<Word>>(element, stream);
}

#define XAI_INSTANTIATE(Word)                                                                    \
  template cudaError_t mask_segments_cuda<Word>(const Word*, const Word*, const std::int64_t*,   \
                                                const std::uint8_t*, const std::int64_t*, Word*, \
                                                const MaskShape&, cudaStream_t);
XAI_INSTANTIATE(std::uint16_t)
XAI_INSTANTIATE(std::uint32_t)
XAI_INSTANTIATE(std::uint64_t)
#undef XAI_INSTANTIATE

}  // namespace xaifast
