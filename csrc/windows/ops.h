// The ops on boxes on any device: check and allocate (shapes.h), then run. A Backend is a struct of
// static functions that run a kernel on the planned tensors. Contracts: library.cpp.
#pragma once

#include <torch/library.h>

#include "windows/shapes.h"

namespace xaifast {

template <class Backend>
struct WindowOps {
  static at::Tensor cut_boxes(const at::Tensor& x, const std::optional<at::Tensor>& box,
                              const std::optional<at::Tensor>& origin, const at::Tensor& start,
                              at::IntArrayRef size, double fill) {
    const Boxes b = plan_boxes(x, box, origin, start, size);
    if (b.out.numel() > 0) Backend::cut(b, fill);
    return b.out;
  }

  static void add_to(torch::Library& m) { m.impl("cut_boxes", &cut_boxes); }
};

// A pointer out of a tensor that may be undefined.
template <class T>
const T* in_or_null(const at::Tensor& x) {
  return x.defined() ? in<T>(x) : nullptr;
}

}  // namespace xaifast
