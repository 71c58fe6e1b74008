#include "common/launch.cuh"
#include "sampling/kernels_cuda.h"
#include "sampling/segment_sums_element.h"

namespace xaifast {
namespace {

template <class T>
__global__ void __launch_bounds__(kSegmentLanes) sum_segments(const SegmentElement<T> element) {
  __shared__ double sums[kSegmentLanes];
  const int lane = static_cast<int>(threadIdx.x);
  for (std::int64_t o = blockIdx.x; o < element.size(); o += gridDim.x) {
    sums[lane] = element.partial(o, lane);
    __syncthreads();
    for (int half = kSegmentLanes / 2; half > 0; half /= 2) {
      if (lane < half) sums[lane] += sums[lane + half];
      __syncthreads();
    }
    if (lane == 0) element.out[o] = sums[0];
    __syncthreads();
  }
}

}  // namespace

template <class T>
cudaError_t segment_sums_cuda(const T* x, const std::int64_t* order, const std::int64_t* ends,
                              double* out, const SegmentShape& shape, std::int64_t row_sample_step,
                              std::int64_t row_channel_step, cudaStream_t stream) {
  const SegmentElement<T> element{x, order, ends, out, shape, row_sample_step, row_channel_step};
  if (element.size() == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>(std::min(element.size(), kMaxBlocks));
  sum_segments<<<blocks, kSegmentLanes, 0, stream>>>(element);
  return cudaGetLastError();
}

#define XAI_INSTANTIATE(T)                                                                      \
  template cudaError_t segment_sums_cuda<T>(const T*, const std::int64_t*, const std::int64_t*, \
                                            double*, const SegmentShape&, std::int64_t,         \
                                            std::int64_t, cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(__nv_bfloat16)
XAI_INSTANTIATE(__half)
#undef XAI_INSTANTIATE

}  // namespace xaifast
