// CUDA's half is the CPU's: both round to nearest even (common/floats.h, tested against the
// compiler's own type in test_kernels.cpp).
#pragma once

#include "common/floats.h"

using __half = xaifast::Float16;
inline float __half2float(__half x) { return static_cast<float>(x); }
inline __half __float2half(float x) { return __half(x); }
