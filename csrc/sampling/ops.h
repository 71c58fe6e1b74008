// The sampling ops on any device: check and allocate (shapes.h), then run. A Backend is a struct of
// static functions, one per kernel, that run it on the planned tensors: over threads (ops_cpu.cpp)
// or on a stream (ops_cuda.cpp). Contracts: library.cpp.
#pragma once

#include <torch/library.h>

#include "sampling/shapes.h"

namespace xaifast {

// f.operator()<C>() for the dtype of total, where rows of G are summed; see check_sum.
template <class G, class F>
auto with_total(const at::Tensor& total, const F& f) {
  if constexpr (sizeof(G) == sizeof(double)) {
    return f.template operator()<double>();
  } else {
    return total.scalar_type() == at::kDouble ? f.template operator()<double>()
                                              : f.template operator()<float>();
  }
}

template <class Backend>
struct SamplingOps {
  static at::Tensor path_points(const at::Tensor& x, const at::Tensor& baseline,
                                const at::Tensor& sample, const at::Tensor& alpha, bool relu) {
    const Path p = plan_path(x, baseline, sample, alpha, relu);
    Backend::path(p);
    return p.out;
  }

  static void accumulate_rows_(const at::Tensor& total, const at::Tensor& g,
                               const at::Tensor& sample, const at::Tensor& weight) {
    const Accumulate a = plan_accumulate(total, g, sample, weight);
    Backend::accumulate(a);
    if (!a.total.is_same(total)) total.copy_(a.total);
    mark_written(total);
  }

  static at::Tensor add_noise(const at::Tensor& x, const at::Tensor& sample, const at::Tensor& draw,
                              const at::Tensor& std, std::int64_t seed) {
    const Noise p = plan_noise(x, sample, draw, std, seed);
    Backend::noise(p);
    return p.out;
  }

  static at::Tensor occlude_windows(const at::Tensor& x, const at::Tensor& baseline,
                                    at::IntArrayRef window, at::IntArrayRef stride,
                                    std::int64_t first, std::int64_t count) {
    const Occlude p = plan_occlude(x, baseline, window, stride, first, count);
    Backend::occlude(p);
    return p.out;
  }

  static at::Tensor scatter_windows(const at::Tensor& scores, at::IntArrayRef shape,
                                    at::IntArrayRef window, at::IntArrayRef stride, bool average) {
    const Scatter p = plan_scatter(scores, shape, window, stride, average);
    Backend::scatter(p);
    return p.out;
  }

  static at::Tensor mask_segments(const at::Tensor& x, const at::Tensor& baseline,
                                  const at::Tensor& labels, const at::Tensor& on,
                                  const at::Tensor& sample) {
    const Mask p = plan_mask(x, baseline, labels, on, sample);
    Backend::mask(p);
    return p.out;
  }

  static at::Tensor segment_sums(const at::Tensor& x, const at::Tensor& labels,
                                 std::int64_t segments) {
    const Segments s = plan_segments(x, labels, segments);
    Backend::sum(s);
    return s.out;
  }

  static void add_to(torch::Library& m) {
    m.impl("path_points", &path_points);
    m.impl("accumulate_rows_", &accumulate_rows_);
    m.impl("add_noise", &add_noise);
    m.impl("occlude_windows", &occlude_windows);
    m.impl("scatter_windows", &scatter_windows);
    m.impl("mask_segments", &mask_segments);
    m.impl("segment_sums", &segment_sums);
  }
};

}  // namespace xaifast
