// CUDA's bfloat16 is the CPU's: both round to nearest even (common/floats.h, tested against the
// definition in test_kernels.cpp).
#pragma once

#include "common/floats.h"

using __nv_bfloat16 = xaifast::BFloat16;
inline float __bfloat162float(__nv_bfloat16 x) { return static_cast<float>(x); }
inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
