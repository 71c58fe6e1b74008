// zplus_conv on CPU tensors: the library's convolutions, which oneDNN runs near the machine's
// limit.
#include <torch/library.h>

#include "zplus_conv/ops_composed.h"

namespace xaifast {
namespace {

at::Tensor zplus_conv_on_cpu(const at::Tensor& a, const at::Tensor& R, const at::Tensor& w,
                             const std::optional<at::Tensor>& /*w_t*/,
                             const std::optional<at::Tensor>& b, at::IntArrayRef stride,
                             at::IntArrayRef padding, at::IntArrayRef dilation, std::int64_t groups,
                             std::string_view rule, at::ArrayRef<double> low,
                             at::ArrayRef<double> high, bool nonnegative, double eps,
                             std::string_view kernel) {
  const ConvArguments c{stride, padding, dilation, groups, rule, low, high, nonnegative, eps};
  check_conv(a, R, w, b, c);
  TORCH_CHECK_VALUE(kernel == "library", "zplus_conv: kernel must be 'library' on the CPU, got '",
                    kernel, "'");
  return compose_zplus_conv(a, R, w, b, c);
}

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { m.impl("zplus_conv", &zplus_conv_on_cpu); }

}  // namespace xaifast
