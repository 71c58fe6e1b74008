// See relprop.cpp.
#pragma once

#include <ATen/core/Tensor.h>

namespace xaifast {

// Arguments of aten::convolution, one value per position dimension. With two parts and several
// groups, each part has groups of its own.
struct ConvGeometry {
  at::IntArrayRef stride, padding, dilation;
  bool transposed;
  at::IntArrayRef output_padding;
  std::int64_t groups;
  bool parts_are_groups;
};

}  // namespace xaifast
