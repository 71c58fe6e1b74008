// No op of this package has a derivative (yet): a call that autograd would record is refused with
// an error, instead of returning a result that silently cuts the graph.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <torch/library.h>

namespace xaifast {
namespace {

bool wants_grad(const c10::IValue& value) {
  return value.isTensor() && value.toTensor().defined() && value.toTensor().requires_grad();
}

void not_differentiable(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                        torch::jit::Stack* stack) {
  if (at::GradMode::is_enabled()) {
    const auto n = op.schema().arguments().size();
    for (const auto& value : torch::jit::last(*stack, n)) {
      TORCH_CHECK(!wants_grad(value), op.schema().name(),
                  ": not differentiable, but an argument requires grad. Call it under "
                  "torch.no_grad(), or detach() the argument.");
    }
  }
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, Autograd, m) {
  for (const char* name : {"stabilized_divide", "stabilized_divide_", "multiply_parts",
                           "multiply_",         "split_signs",        "add_split",
                           "pool_redistribute", "backward_product",   "relprop_conv",
                           "relprop_linear",    "path_points",        "accumulate_rows_",
                           "add_noise",         "occlude_windows",    "scatter_windows",
                           "mask_segments",     "segment_sums",       "weighted_least_squares",
                           "weighted_lasso",    "recurrent_states",   "recurrent_relprop",
                           "lstm_path",         "cut_boxes",          "zplus_conv",
                           "winograd_conv",     "relprop_few",        "zplus_linear"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&not_differentiable>());
  }
}

}  // namespace xaifast
