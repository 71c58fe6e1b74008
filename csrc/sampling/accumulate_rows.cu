#include "common/launch.cuh"
#include "sampling/accumulate_rows_element.h"
#include "sampling/kernels_cuda.h"

namespace xaifast {

template <class G, class C>
cudaError_t accumulate_rows_cuda(const G* g, const std::int64_t* sample, const double* weight,
                                 C* total, BatchShape shape, cudaStream_t stream) {
  return launch_packs<kPackWidth<C>>(AccumulateElement<G, C>{g, sample, weight, total, shape},
                                     stream);
}

#define XAI_INSTANTIATE(G, C)                                                                   \
  template cudaError_t accumulate_rows_cuda<G, C>(const G*, const std::int64_t*, const double*, \
                                                  C*, BatchShape, cudaStream_t);
XAI_INSTANTIATE(float, float)
XAI_INSTANTIATE(__nv_bfloat16, float)
XAI_INSTANTIATE(__half, float)
XAI_INSTANTIATE(double, double)
XAI_INSTANTIATE(float, double)
XAI_INSTANTIATE(__nv_bfloat16, double)
XAI_INSTANTIATE(__half, double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
