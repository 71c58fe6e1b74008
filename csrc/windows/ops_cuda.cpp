// The kernels on boxes on CUDA tensors: pointers out of tensors, on the current stream of their
// device. Compiled by the host compiler; the kernels are in the .cu files.
#include <torch/library.h>

#include "common/stream.h"
#include "windows/kernels_cuda.h"
#include "windows/ops.h"

namespace xaifast {
namespace {

struct Cuda {
  static void cut(const Boxes& b, double fill) {
    run("cut_boxes", b.x, [&]<class T>(cudaStream_t stream) {
      return cut_boxes_cuda<T>(in<T>(b.x), in_or_null<T>(b.box), in_or_null<std::int64_t>(b.origin),
                               in<std::int64_t>(b.start), out<T>(b.out), b.shape, fill, stream);
    });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CUDA, m) { WindowOps<Cuda>::add_to(m); }

}  // namespace xaifast
