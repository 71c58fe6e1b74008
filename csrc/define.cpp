#include "define.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>

#include <string>
#include <utility>

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

void define(torch::Library& m, const char* schema) {
  auto parsed = torch::schema(schema);
  const std::string name = parsed.name();
  m.def(std::move(parsed));
  auto refusal = torch::CppFunction::makeFromBoxedFunction<&not_differentiable>();
  m.impl(name.c_str(), torch::dispatch(c10::DispatchKey::Autograd, std::move(refusal)));
}

}  // namespace xaifast
