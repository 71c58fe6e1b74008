// How an op gets its schema: one line in library.cpp, which also makes it not differentiable.
#pragma once

#include <torch/library.h>

namespace xaifast {

// Defines the op. A call of it that autograd would record is refused with an error, instead of
// returning a result that silently cuts the graph.
void define(torch::Library& m, const char* schema);

}  // namespace xaifast
