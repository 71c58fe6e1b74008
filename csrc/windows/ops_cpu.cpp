// The kernels on boxes on CPU tensors: pointers out of tensors, threads over rows.
#include <torch/library.h>

#include "common/threads.h"
#include "windows/ops.h"

namespace xaifast {
namespace {

struct Cpu {
  static void cut(const Boxes& b, double fill) {
    run(b.x, b.shape.rows, b.shape.positions() * b.shape.channels,
        [&]<class T>(std::int64_t begin, std::int64_t end) {
          cut_boxes<T>(in<T>(b.x), in_or_null<T>(b.box), in_or_null<std::int64_t>(b.origin),
                       in<std::int64_t>(b.start), out<T>(b.out), b.shape, fill, begin, end);
        });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { WindowOps<Cpu>::add_to(m); }

}  // namespace xaifast
