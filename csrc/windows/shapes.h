// Checks and layout of the ops on boxes, shared by the CPU and the CUDA glue: turns tensors into
// the plain shapes that the kernels take. Knows PyTorch; the kernels do not.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "common/tensors.h"
#include "windows/cut_boxes.h"

namespace xaifast {

struct Boxes {
  at::Tensor x, box, origin, start, out;  // box and origin may be undefined
  BoxShape shape;
};

inline void check_places(const char* op, const char* name, const at::Tensor& v, std::int64_t axes,
                         std::int64_t rows, const at::Tensor& x) {
  TORCH_CHECK_TYPE(v.scalar_type() == at::kLong, op, ": ", name, " must be int64, got ",
                   v.scalar_type());
  TORCH_CHECK_VALUE(v.device() == x.device(), op, ": ", name, " must be on the device of x (",
                    x.device(), "), got ", v.device());
  TORCH_CHECK_VALUE(v.dim() == 2 && v.size(0) == axes && v.size(1) == rows, op, ": ", name,
                    " must have one number for each axis and row [", axes, ", ", rows,
                    "], got shape ", v.sizes());
}

// Places are far enough from the ends of int64 that sizes can be added. On the CPU each is checked;
// CUDA would have to wait for the device, and its kernel reads nothing out of range.
inline constexpr std::int64_t kFarthest = std::int64_t{1} << 61;

inline void check_near(const char* op, const char* name, const at::Tensor& v) {
  if (!v.device().is_cpu()) return;
  const auto* places = in<std::int64_t>(v);
  for (std::int64_t i = 0; i < v.numel(); ++i) {
    TORCH_CHECK_VALUE(places[i] >= -kFarthest && places[i] <= kFarthest, op, ": ", name,
                      " must lie in [-2^61, 2^61], got ", places[i]);
  }
}

// Sizes along the last of three axes.
inline void set_axes(std::int64_t (&to)[kBoxAxes], at::IntArrayRef sizes) {
  std::fill(to, to + kBoxAxes, 1);
  std::copy(sizes.begin(), sizes.end(), to + kBoxAxes - static_cast<int>(sizes.size()));
}

inline Boxes plan_boxes(const at::Tensor& x, const std::optional<at::Tensor>& box,
                        const std::optional<at::Tensor>& origin, const at::Tensor& start,
                        at::IntArrayRef size) {
  constexpr const char* op = "cut_boxes";
  check_dtype(op, "x", x);
  const std::int64_t axes = x.dim() - 1;
  TORCH_CHECK_VALUE(axes >= 1 && axes <= kBoxAxes, op,
                    ": x must be [*shape, channels] with 1 to 3 axes, got shape ", x.sizes());
  const std::int64_t rows = start.dim() == 2 ? start.size(1) : 0;
  check_places(op, "start", start, axes, rows, x);
  TORCH_CHECK_VALUE(static_cast<std::int64_t>(size.size()) == axes &&
                        std::all_of(size.begin(), size.end(), [](auto n) { return n >= 0; }),
                    op, ": size must have one number, not negative, for each of the ", axes,
                    " axes, got ", size);
  TORCH_CHECK_VALUE(box.has_value() == origin.has_value(), op,
                    ": box and origin must be given together or not at all");
  Boxes b;
  b.shape = {rows, x.size(axes), static_cast<int>(axes), {}, {}, {}};
  set_axes(b.shape.shape, x.sizes().slice(0, axes));
  set_axes(b.shape.size, size);
  if (box.has_value()) {
    check_like(op, "box", *box, "x", x);
    TORCH_CHECK_VALUE(
        box->dim() == axes + 2 && box->size(0) == rows && box->size(axes + 1) == x.size(axes), op,
        ": box must be [", rows, ", ...", axes, " sizes, ", x.size(axes),
        "], one for each row, got shape ", box->sizes());
    check_places(op, "origin", *origin, axes, rows, x);
    set_axes(b.shape.changed, box->sizes().slice(1, axes));
    b.box = box->contiguous();
    b.origin = origin->contiguous();
    check_near(op, "origin", b.origin);
  }
  std::vector<std::int64_t> sizes{rows};
  sizes.insert(sizes.end(), size.begin(), size.end());
  sizes.push_back(x.size(axes));
  checked_product(op, "the result", sizes);
  b.x = x.contiguous();
  b.start = start.contiguous();
  check_near(op, "start", b.start);
  b.out = at::empty(sizes, x.options());
  return b;
}

}  // namespace xaifast
