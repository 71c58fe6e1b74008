// The sampling kernels on CPU tensors: pointers out of tensors, threads over rows.
#include <torch/library.h>

#include "common/threads.h"
#include "sampling/ops.h"

namespace xaifast {
namespace {

struct Cpu {
  static void path(const Path& p) {
    run(p.x, p.shape.rows * p.shape.size, 1, [&]<class T>(std::int64_t begin, std::int64_t end) {
      path_points<T>(in<T>(p.x), in<T>(p.baseline), in<std::int64_t>(p.sample), in<double>(p.alpha),
                     out<T>(p.out), p.shape, p.relu, begin, end);
    });
  }

  static void accumulate(const Accumulate& a) {
    run(a.g, a.shape.size, a.shape.rows, [&]<class G>(std::int64_t begin, std::int64_t end) {
      with_total<G>(a.total, [&]<class C>() {
        accumulate_rows<G, C>(in<G>(a.g), in<std::int64_t>(a.sample), in<double>(a.weight),
                              out<C>(a.total), a.shape, begin, end);
      });
    });
  }

  // A number of noise is as much work as ten that are only read and written.
  static void noise(const Noise& p) {
    run(p.x, noise_tasks(p.shape), 10 * noise_block(p.shape) * p.shape.channels,
        [&]<class T>(std::int64_t begin, std::int64_t end) {
          add_noise<T>(in<T>(p.x), in<std::int64_t>(p.sample), in<std::int64_t>(p.draw),
                       in<double>(p.std), out<T>(p.out), p.shape, begin, end);
        });
  }

  static void occlude(const Occlude& p) {
    run_words(p.x, p.shape.batch.rows, p.shape.batch.size,
              [&]<class Word>(std::int64_t begin, std::int64_t end) {
                occlude_windows<Word>(in<Word>(p.x), in<Word>(p.baseline), out<Word>(p.out),
                                      p.shape, begin, end);
              });
  }

  static void scatter(const Scatter& p) {
    run(p.scores, p.shape.lines(), p.shape.line(),
        [&]<class T>(std::int64_t begin, std::int64_t end) {
          scatter_windows<T>(in<T>(p.scores), out<T>(p.out), p.shape, begin, end);
        });
  }

  static void mask(const Mask& p) {
    const LabelMap& map = p.shape.map;
    run_words(p.x, mask_tasks(p.shape), mask_tile(map) * map.width * map.repeat,
              [&]<class Word>(std::int64_t begin, std::int64_t end) {
                mask_segments<Word>(in<Word>(p.x), in<Word>(p.baseline), in<std::int64_t>(p.labels),
                                    in<std::uint8_t>(p.on), in<std::int64_t>(p.sample),
                                    out<Word>(p.out), p.shape, begin, end);
              });
  }

  static void sum(const Segments& s) {
    run(s.x, segment_tasks(s.shape), segment_block(s.shape) * s.shape.positions,
        [&]<class T>(std::int64_t begin, std::int64_t end) {
          segment_sums<T>(in<T>(s.x), in<std::int64_t>(s.labels), out<double>(s.out), s.shape,
                          begin, end);
        });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { SamplingOps<Cpu>::add_to(m); }

}  // namespace xaifast
