// zplus_conv by the library: the terms as tensors, then relprop_conv (relevance/relprop_op.cpp).
#pragma once

#include "zplus_conv/plan.h"

namespace xaifast {

at::Tensor compose_zplus_conv(const at::Tensor& a, const at::Tensor& R, const at::Tensor& w,
                              const std::optional<at::Tensor>& b, const ConvArguments& c);

}  // namespace xaifast
