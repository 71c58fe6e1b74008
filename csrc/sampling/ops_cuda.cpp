// The sampling kernels on CUDA tensors: pointers out of tensors, on the current stream of their
// device. Compiled by the host compiler; the kernels are in the .cu files.
#include <ATen/ops/arange.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>
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

  static void mask(const Mask& p) {
    run_words("mask_segments", p.x, [&]<class Word>(cudaStream_t stream) {
      return mask_segments_cuda<Word>(
          in<Word>(p.x), in<Word>(p.baseline), in<std::int64_t>(p.labels), in<std::uint8_t>(p.on),
          in<std::int64_t>(p.sample), out<Word>(p.out), p.shape, stream);
    });
  }

  // Labels are sorted once, for all samples and channels that share them.
  static void sum(const Segments& s) {
    if (s.out.numel() == 0) return;
    if (s.x.numel() == 0) {
      s.out.zero_();
      return;
    }
    const std::int64_t samples = s.labels.size(0), channels = s.labels.size(1);
    auto sizes = s.x.sizes().vec();
    sizes[0] = samples;
    sizes[1] = channels;
    const at::Tensor rows = s.labels.expand(sizes).reshape({samples * channels, s.shape.positions});
    const auto [sorted, order] = at::sort(rows, /*stable=*/true, /*dim=*/1, /*descending=*/false);
    const at::Tensor starts = at::arange(s.shape.segments + 1, rows.options());
    const at::Tensor ends =
        at::searchsorted(sorted, starts.expand({rows.size(0), -1}).contiguous());
    run("segment_sums", s.x, [&]<class T>(cudaStream_t stream) {
      return segment_sums_cuda<T>(in<T>(s.x), in<std::int64_t>(order), in<std::int64_t>(ends),
                                  out<double>(s.out), s.shape, samples == 1 ? 0 : channels,
                                  channels == 1 ? 0 : 1, stream);
    });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CUDA, m) { SamplingOps<Cuda>::add_to(m); }

}  // namespace xaifast
