// The sampling kernels on CUDA tensors: pointers out of tensors, on the current stream of their
// device. Compiled by the host compiler; the kernels are in the .cu files.
#include <torch/library.h>

#include "common/stream.h"
#include "sampling/kernels_cuda.h"
#include "sampling/ops.h"

namespace xaifast {
namespace {

struct Cuda {
  static void path(const Path& p) {
    run("path_points", p.x, [&]<class T>(cudaStream_t stream) {
      return path_points_cuda<T>(in<T>(p.x), in<T>(p.baseline), in<std::int64_t>(p.sample),
                                 in<double>(p.alpha), out<T>(p.out), p.shape, p.relu, stream);
    });
  }

  static void accumulate(const Accumulate& a) {
    run("accumulate_rows_", a.g, [&]<class G>(cudaStream_t stream) {
      return with_total<G>(a.total, [&]<class C>() {
        return accumulate_rows_cuda<G, C>(in<G>(a.g), in<std::int64_t>(a.sample),
                                          in<double>(a.weight), out<C>(a.total), a.shape, stream);
      });
    });
  }

  static void noise(const Noise& p) {
    run("add_noise", p.x, [&]<class T>(cudaStream_t stream) {
      return add_noise_cuda<T>(in<T>(p.x), in<std::int64_t>(p.sample), in<std::int64_t>(p.draw),
                               in<double>(p.std), out<T>(p.out), p.shape, stream);
    });
  }

  static void occlude(const Occlude& p) {
    run_words("occlude_windows", p.x, [&]<class Word>(cudaStream_t stream) {
      return occlude_windows_cuda<Word>(in<Word>(p.x), in<Word>(p.baseline), out<Word>(p.out),
                                        p.shape, stream);
    });
  }

  static void scatter(const Scatter& p) {
    run("scatter_windows", p.scores, [&]<class T>(cudaStream_t stream) {
      return scatter_windows_cuda<T>(in<T>(p.scores), out<T>(p.out), p.shape, stream);
    });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CUDA, m) { SamplingOps<Cuda>::add_to(m); }

}  // namespace xaifast
