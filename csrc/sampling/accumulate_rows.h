// Weighted sums of rows, as gradients of many points are gathered into one explanation per sample:
//   total[n] += sum over the rows r with sample[r] = n of weight[r] g[r]
//
// g [rows, size] of G                   what is summed
// sample [rows], weight [rows]
// total [samples, size] of C            updated; must not overlap g
//
// C is float32 or float64, G is C or narrower: float32, bfloat16, float16. The sums are taken in C.
// Rows are added one after the other, in ascending order, each product rounded: the result is the
// same on every device, for any number of threads, and wherever a long list of rows is cut into
// batches. Empty: total stays. A row whose sample is not there (sample[r] outside [0, samples)) is
// left out on CUDA and not allowed on the CPU.
#pragma once

#include "common/rounded.h"
#include "sampling/batch.h"

namespace xaifast {

// Elements [begin, end) of size, all rows.
template <class G, class C>
void accumulate_rows(const G* g, const std::int64_t* sample, const double* weight, C* total,
                     BatchShape shape, std::int64_t begin, std::int64_t end);

}  // namespace xaifast
