// Checks and layout of the sampling ops, shared by the CPU and the CUDA glue: turns tensors into
// the plain shapes that the kernels take. Knows PyTorch, as does ops.h; the kernels do not.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "common/tensors.h"
#include "sampling/accumulate_rows.h"
#include "sampling/add_noise.h"
#include "sampling/mask_segments.h"
#include "sampling/occlude_windows.h"
#include "sampling/path_points.h"
#include "sampling/scatter_windows.h"
#include "sampling/segment_sums.h"

namespace xaifast {

// ---- samples and rows -------------------------------------------------------------------------

inline void check_samples(const char* op, const char* name, const at::Tensor& x) {
  check_dtype(op, name, x);
  TORCH_CHECK_VALUE(x.dim() >= 1, op, ": ", name, " must be [N, ...], got a number");
  checked_product(op, "a sample", x.sizes().slice(1));
}

// v [count], an int64 or a float64 for each `what`.
inline void check_list(const char* op, const char* name, const at::Tensor& v, at::ScalarType type,
                       std::int64_t count, const char* what, const at::Tensor& x) {
  TORCH_CHECK_TYPE(v.scalar_type() == type, op, ": ", name, " must be ",
                   type == at::kLong ? "int64" : "float64", ", got ", v.scalar_type());
  TORCH_CHECK_VALUE(v.device() == x.device(), op, ": ", name, " must be on the device of ",
                    "the samples (", x.device(), "), got ", v.device());
  TORCH_CHECK_VALUE(v.dim() == 1 && v.size(0) == count, op, ": ", name,
                    " must have one number per ", what, " [", count, "], got shape ", v.sizes());
}

// On the CPU each index is checked; on CUDA that would have to wait for the device, and the kernels
// do without (batch.h).
inline void check_range(const char* op, const char* name, const at::Tensor& index,
                        std::int64_t limit) {
  if (!index.device().is_cpu()) return;
  const auto* i = in<std::int64_t>(index);
  for (std::int64_t r = 0; r < index.numel(); ++r) {
    TORCH_CHECK_VALUE(i[r] >= 0 && i[r] < limit, op, ": ", name, " must lie in [0, ", limit,
                      "), got ", i[r], " at row ", r);
  }
}

// sample [R] as the kernels read it: the index in x [N, ...] of what each row is made of.
inline at::Tensor plan_sample(const char* op, const at::Tensor& sample, const at::Tensor& x) {
  const std::int64_t rows = sample.dim() == 1 ? sample.size(0) : 0;
  check_list(op, "sample", sample, at::kLong, rows, "row of the batch", x);
  checked_product(op, "the batch", {rows, product_of(x.sizes().slice(1))});
  const at::Tensor list = sample.contiguous();
  check_range(op, "sample", list, x.size(0));
  return list;
}

// An expanded baseline is one row for all samples, and not copied.
inline at::Tensor plan_baseline(const char* op, const at::Tensor& baseline, const at::Tensor& x) {
  check_like(op, "baseline", baseline, "x", x);
  TORCH_CHECK_VALUE(baseline.dim() == x.dim() && baseline.sizes().slice(1) == x.sizes().slice(1) &&
                        (baseline.size(0) == 1 || baseline.size(0) == x.size(0)),
                    op, ": baseline must have the shape of x ", x.sizes(),
                    ", or one row for all samples, got ", baseline.sizes());
  const bool one = baseline.size(0) > 1 && baseline.stride(0) == 0;
  return (one ? baseline.narrow(0, 0, 1) : baseline).contiguous(layout_of(x));
}

inline BatchShape batch_shape(const at::Tensor& x, std::int64_t rows, std::int64_t baselines = 1) {
  return {rows, x.size(0), baselines, product_of(x.sizes().slice(1))};
}

// An unwritten batch of samples like those of x, in its layout.
inline at::Tensor empty_rows(const at::Tensor& x, std::int64_t rows) {
  auto sizes = x.sizes().vec();
  sizes[0] = rows;
  return at::empty(sizes, x.options().memory_format(layout_of(x)));
}

// ---- path_points ------------------------------------------------------------------------------

struct Path {
  at::Tensor x, baseline, sample, alpha, out;
  BatchShape shape;
  bool relu;
};

inline Path plan_path(const at::Tensor& x, const at::Tensor& baseline, const at::Tensor& sample,
                      const at::Tensor& alpha, bool relu) {
  constexpr const char* op = "path_points";
  check_samples(op, "x", x);
  Path p;
  p.sample = plan_sample(op, sample, x);
  p.baseline = plan_baseline(op, baseline, x);
  const std::int64_t rows = p.sample.size(0);
  check_list(op, "alpha", alpha, at::kDouble, rows, "row of the batch", x);
  p.x = x.contiguous(layout_of(x));
  p.alpha = alpha.contiguous();
  p.out = empty_rows(x, rows);
  p.shape = batch_shape(x, rows, p.baseline.size(0));
  p.relu = relu;
  return p;
}

// ---- accumulate_rows_ -------------------------------------------------------------------------

struct Accumulate {
  at::Tensor total, g, sample, weight;
  BatchShape shape;
};

// The dtype of g is that of total or a narrower one.
inline void check_sum(const char* op, const at::Tensor& total, const at::Tensor& g) {
  const auto type = total.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble, op,
                   ": total must be float32 or float64, got ", type);
  check_samples(op, "total", total);
  check_samples(op, "g", g);
  TORCH_CHECK_TYPE(g.scalar_type() != at::kDouble || type == at::kDouble, op,
                   ": g must not be wider than total (", type, "), got ", g.scalar_type(),
                   "; make total float64");
  TORCH_CHECK_VALUE(g.device() == total.device(), op, ": g must be on the device of total (",
                    total.device(), "), got ", g.device());
  check_writable(op, "total", total);
}

// total is that of the call, or a dense copy of it.
inline Accumulate plan_accumulate(const at::Tensor& total, const at::Tensor& g,
                                  const at::Tensor& sample, const at::Tensor& weight) {
  constexpr const char* op = "accumulate_rows_";
  check_sum(op, total, g);
  Accumulate a;
  a.sample = plan_sample(op, sample, total);
  const std::int64_t rows = a.sample.size(0);
  check_list(op, "weight", weight, at::kDouble, rows, "row of the batch", total);
  check_apart(op, "total", total, "weight", weight);
  TORCH_CHECK_VALUE(
      g.dim() == total.dim() && g.size(0) == rows && g.sizes().slice(1) == total.sizes().slice(1),
      op, ": g must have ", rows, " rows (one per sample) of the shape of those of ", "total ",
      total.sizes(), ", got ", g.sizes());
  const auto format = layout_of(total);
  a.total = total.contiguous(format);
  a.g = (g.is_alias_of(total) ? g.clone() : g).contiguous(format);
  a.weight = weight.contiguous();
  a.shape = batch_shape(total, rows);
  return a;
}

// ---- add_noise --------------------------------------------------------------------------------

struct Noise {
  at::Tensor x, sample, draw, std, out;
  NoiseShape shape;
};

inline Noise plan_noise(const at::Tensor& x, const at::Tensor& sample, const at::Tensor& draw,
                        const at::Tensor& std, std::int64_t seed) {
  constexpr const char* op = "add_noise";
  check_samples(op, "x", x);
  TORCH_CHECK_VALUE(product_of(x.sizes().slice(1)) <= kMaxNoise && x.size(0) <= kMaxDraws, op,
                    ": x must have at most 2^32 samples of at most 2^34 elements, got ", x.sizes());
  Noise p;
  p.sample = plan_sample(op, sample, x);
  const std::int64_t rows = p.sample.size(0);
  check_list(op, "draw", draw, at::kLong, rows, "row of the batch", x);
  check_list(op, "std", std, at::kDouble, x.size(0), "sample", x);
  p.draw = draw.contiguous();
  check_range(op, "draw", p.draw, kMaxDraws);
  p.x = x.contiguous(layout_of(x));
  p.std = std.contiguous();
  p.out = empty_rows(x, rows);
  // With one position or one channel both layouts are the same in memory.
  const bool last = is_channels_last(layout_of(x)) && x.size(1) > 0;
  p.shape = {batch_shape(x, rows), last ? x.size(1) : 1, static_cast<std::uint64_t>(seed)};
  return p;
}

// ---- windows ----------------------------------------------------------------------------------

inline void check_windows(const char* op, at::IntArrayRef shape, at::IntArrayRef window,
                          at::IntArrayRef stride) {
  for (const auto& list : {window, stride}) {
    TORCH_CHECK_VALUE(list.size() == shape.size(), op, ": window and stride must have one entry ",
                      "for each dimension of a sample ", shape, ", got ", window, " and ", stride);
  }
  for (std::size_t d = 0; d < shape.size(); ++d) {
    const std::int64_t size = std::max<std::int64_t>(shape[d], 1);
    TORCH_CHECK_VALUE(window[d] >= 1 && window[d] <= size, op, ": window must lie in [1, ", size,
                      "] along dimension ", d, " of a sample ", shape, ", got ", window);
    TORCH_CHECK_VALUE(stride[d] >= 1, op, ": stride must be positive, got ", stride);
  }
}

// Axes that make no difference are merged into the one before them; see windows.h.
inline Windows merge_axes(const std::vector<WindowAxis>& axes) {
  Windows w;
  w.axes = 0;
  for (const WindowAxis& a : axes) {
    if (w.axes > 0 && a.window == a.size) {  // every window covers it in full
      WindowAxis& before = w.axis[w.axes - 1];
      before.size *= a.size;
      before.window *= a.size;
      before.stride *= a.size;
    } else if (w.axes == 1 && w.axis[0].size == 1) {
      w.axis[0] = a;
    } else {
      w.axis[w.axes++] = a;
    }
  }
  return w;
}

struct WindowPlan {
  Windows windows;
  std::int64_t K;  // how many windows there are
};

// The axes of a sample in the order of memory.
inline WindowPlan plan_windows(const char* op, at::IntArrayRef shape, at::IntArrayRef window,
                               at::IntArrayRef stride, bool channels_last) {
  check_windows(op, shape, window, stride);
  std::vector<WindowAxis> axes;
  std::vector<std::int64_t> positions;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    const std::int64_t size = std::max<std::int64_t>(shape[d], 1);
    const std::int64_t step = std::min(stride[d], size);  // a longer one leaves the axis as well
    positions.push_back(window_positions(size, window[d], step));
    axes.push_back({size, window[d], step, positions.back(), 1});
  }
  if (axes.empty()) axes.push_back({1, 1, 1, 1, 1});  // a sample that is one number
  const std::int64_t K = checked_product(op, "the list of windows", positions);
  for (std::size_t d = axes.size() - 1; d > 0; --d) {  // the last dimension is counted fastest
    axes[d - 1].step = axes[d].step * axes[d].positions;
  }
  if (channels_last) std::rotate(axes.begin(), axes.begin() + 1, axes.end());
  return {merge_axes(axes), K};
}

struct Occlude {
  at::Tensor x, baseline, out;
  OccludeShape shape;
};

inline Occlude plan_occlude(const at::Tensor& x, const at::Tensor& baseline, at::IntArrayRef window,
                            at::IntArrayRef stride, std::int64_t first, std::int64_t count) {
  constexpr const char* op = "occlude_windows";
  check_samples(op, "x", x);
  const auto format = layout_of(x);
  const auto sample = x.sizes().slice(1);
  const auto [windows, K] = plan_windows(op, sample, window, stride, is_channels_last(format));
  TORCH_CHECK_VALUE(first >= 0 && count >= 0 && first <= K && count <= K - first, op,
                    ": first and count must name some of the ", K, " windows, got first=", first,
                    " and count=", count);
  checked_product(op, "the batch", {count, x.size(0), product_of(sample)});
  Occlude p;
  p.baseline = plan_baseline(op, baseline, x);
  p.x = x.contiguous(format);
  p.out = empty_rows(x, count * x.size(0));
  p.shape = {batch_shape(x, count * x.size(0), p.baseline.size(0)), first, windows};
  return p;
}

struct Scatter {
  at::Tensor scores, out;
  ScatterShape shape;
};

inline Scatter plan_scatter(const at::Tensor& scores, at::IntArrayRef shape, at::IntArrayRef window,
                            at::IntArrayRef stride, bool average) {
  constexpr const char* op = "scatter_windows";
  check_dtype(op, "scores", scores);
  TORCH_CHECK_VALUE(std::all_of(shape.begin(), shape.end(), [](std::int64_t s) { return s >= 0; }),
                    op, ": shape must not have negative sizes, got ", shape);
  const std::int64_t size = checked_product(op, "a sample", shape);
  const auto [windows, K] = plan_windows(op, shape, window, stride, /*channels_last=*/false);
  TORCH_CHECK_VALUE(scores.dim() == 2 && scores.size(1) == K, op, ": scores must be [T, ", K,
                    "], one for each window of ", window, " with stride ", stride, " in ", shape,
                    ", got ", scores.sizes());
  Scatter p;
  checked_product(op, "the result", {scores.size(0), size});
  auto sizes = shape.vec();
  sizes.insert(sizes.begin(), scores.size(0));
  p.scores = scores.contiguous();
  p.out = at::empty(sizes, scores.options());
  p.shape = {scores.size(0), size, K, average, windows};
  return p;
}

// ---- segments ---------------------------------------------------------------------------------

// labels [N or 1, ...], each dimension as in x or 1; one along those that they are expanded over.
inline at::Tensor check_labels(const char* op, const at::Tensor& labels, const at::Tensor& x) {
  TORCH_CHECK_TYPE(labels.scalar_type() == at::kLong, op, ": labels must be int64, got ",
                   labels.scalar_type());
  TORCH_CHECK_VALUE(labels.device() == x.device(), op, ": labels must be on the device of x (",
                    x.device(), "), got ", labels.device());
  bool fits = labels.dim() == x.dim();
  for (std::int64_t d = 0; fits && d < x.dim(); ++d) {
    fits = labels.size(d) == 1 || labels.size(d) == x.size(d);
  }
  TORCH_CHECK_VALUE(fits, op, ": labels must have the shape of x ", x.sizes(),
                    ", with 1 for dimensions that share them, got ", labels.sizes());
  at::Tensor l = labels;
  for (std::int64_t d = 0; d < l.dim(); ++d) {
    if (l.size(d) > 1 && l.stride(d) == 0) l = l.narrow(d, 0, 1);
  }
  return l;
}

// Where each position of `sizes` finds its label among `labels`, both in the order of memory.
inline LabelMap map_labels(const std::vector<std::int64_t>& sizes,
                           const std::vector<std::int64_t>& labels) {
  LabelMap map{1, 1, 1, 1, 0, {}};
  if (product_of(sizes) == 0) return map;
  std::vector<LabelAxis> axes;  // alternately with a label each (step 1) and with one for all (0)
  for (std::size_t d = 0; d < sizes.size(); ++d) {
    const std::int64_t step = labels[d] == 1 ? 0 : 1;
    if (sizes[d] == 1) continue;
    if (!axes.empty() && axes.back().step == step) {
      axes.back().size *= sizes[d];
    } else {
      axes.push_back({sizes[d], step});
    }
  }
  const auto take = [&](std::int64_t& size, std::int64_t step, bool front) {
    if (axes.empty() || (front ? axes.front() : axes.back()).step != step) return;
    size = (front ? axes.front() : axes.back()).size;
    axes.erase(front ? axes.begin() : axes.end() - 1);
  };
  take(map.width, 0, /*front=*/false);
  take(map.run, 1, /*front=*/false);
  take(map.repeat, 0, /*front=*/true);
  std::int64_t step = map.run;
  for (auto a = axes.rbegin(); a != axes.rend(); ++a) {
    map.groups *= a->size;
    if (a->step == 0) continue;
    a->step = step;
    step *= a->size;
  }
  map.axes = static_cast<int>(axes.size());
  std::copy(axes.begin(), axes.end(), map.axis);
  return map;
}

struct Mask {
  at::Tensor x, baseline, labels, on, sample, out;
  MaskShape shape;
};

inline Mask plan_mask(const at::Tensor& x, const at::Tensor& baseline, const at::Tensor& labels,
                      const at::Tensor& on, const at::Tensor& sample) {
  constexpr const char* op = "mask_segments";
  check_samples(op, "x", x);
  Mask p;
  p.sample = plan_sample(op, sample, x);
  const std::int64_t rows = p.sample.size(0);
  TORCH_CHECK_TYPE(on.scalar_type() == at::kBool, op, ": on must be bool, got ", on.scalar_type());
  TORCH_CHECK_VALUE(on.dim() == 2 && on.size(0) == rows && on.device() == x.device(), op,
                    ": on must be [", rows,
                    ", M], one row for each of the batch, on the device of "
                    "x (",
                    x.device(), "), got ", on.sizes(), " on ", on.device());
  const at::Tensor l = check_labels(op, labels, x);
  p.baseline = plan_baseline(op, baseline, x);
  const auto format = layout_of(x);
  std::vector<std::int64_t> order(x.dim());
  std::iota(order.begin(), order.end(), 0);
  if (is_channels_last(format)) std::rotate(order.begin() + 1, order.begin() + 2, order.end());
  p.labels = l.permute(order).contiguous();
  p.x = x.contiguous(format);
  p.on = on.contiguous();
  p.out = empty_rows(x, rows);
  const auto sizes = x.permute(order).sizes().slice(1).vec();
  const auto label_sizes = p.labels.sizes().slice(1).vec();
  p.shape = {batch_shape(x, rows, p.baseline.size(0)), on.size(1),
             l.size(0) == 1 ? 0 : product_of(label_sizes), map_labels(sizes, label_sizes)};
  return p;
}

struct Segments {
  at::Tensor x, labels, out;
  SegmentShape shape;
};

inline Segments plan_segments(const at::Tensor& x, const at::Tensor& labels,
                              std::int64_t segments) {
  constexpr const char* op = "segment_sums";
  check_dtype(op, "x", x);
  TORCH_CHECK_VALUE(x.dim() >= 2, op, ": x must be [N, C, ...], got ", x.sizes());
  TORCH_CHECK_VALUE(segments >= 0, op, ": segments must not be negative, got ", segments);
  checked_product(op, "the result", {x.size(0), x.size(1), segments});
  const auto format = layout_of(x);
  Segments s;
  s.labels = check_labels(op, labels, x).contiguous();
  s.x = x.contiguous(format);
  s.out = at::empty({x.size(0), x.size(1), segments}, x.options().dtype(at::kDouble));
  const auto sizes = x.sizes().slice(2).vec();
  const auto label_sizes = s.labels.sizes().slice(2).vec();
  const std::int64_t each = product_of(label_sizes);
  s.shape = {x.size(0),
             x.size(1),
             product_of(sizes),
             segments,
             is_channels_last(format),
             s.labels.size(0) == 1 ? 0 : s.labels.size(1) * each,
             s.labels.size(1) == 1 ? 0 : each,
             map_labels(sizes, label_sizes)};
  return s;
}

}  // namespace xaifast
