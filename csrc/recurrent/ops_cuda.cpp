// The recurrent ops on CUDA tensors, on the current stream of their device. Compiled by the host
// compiler; the kernels are in sequence.cu.
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "common/stream.h"
#include "recurrent/kernels_cuda.h"
#include "recurrent/ops.h"

namespace xaifast {
namespace {

const std::int64_t* lengths_of(const at::Tensor& lengths) {
  return lengths.defined() ? lengths.const_data_ptr<std::int64_t>() : nullptr;
}

void check_units(const char* op, std::int64_t H) {
  TORCH_CHECK_VALUE(H <= kMaxUnits, op, ": on CUDA, at most ", kMaxUnits, " units, got ", H,
                    "; xaifast.ops runs larger layers by PyTorch's own operations");
}

struct Cuda {
  static void states(const States& s) {
    check_units("recurrent_states", s.H);
    const at::Tensor w_t = s.w.t().contiguous();
    AT_DISPATCH_FLOATING_TYPES(s.a.scalar_type(), "recurrent_states", [&] {
      launch_on("recurrent_states", s.a, [&](cudaStream_t stream) {
        return recurrent_states_cuda<scalar_t>(
            in<scalar_t>(s.a), in<scalar_t>(w_t), in<scalar_t>(s.b), out<scalar_t>(s.z),
            out<scalar_t>(s.h), out<scalar_t>(s.c),
            {1, s.T, s.N, s.H, s.lstm, lengths_of(s.lengths)}, stream);
      });
    });
  }

  static void relprop(const Relprop& r) {
    check_units("recurrent_relprop", r.H);
    AT_DISPATCH_FLOATING_TYPES(r.z.scalar_type(), "recurrent_relprop", [&] {
      launch_on("recurrent_relprop", r.z, [&](cudaStream_t stream) {
        return recurrent_relprop_cuda<scalar_t>(
            in<scalar_t>(r.z), in<scalar_t>(r.h), r.lstm ? in<scalar_t>(r.c) : nullptr,
            in<scalar_t>(r.w), in<scalar_t>(r.b), in<scalar_t>(r.R), out<scalar_t>(r.R_h),
            out<scalar_t>(r.R_c), out<scalar_t>(r.s),
            {r.targets, r.T, r.N, r.H, r.lstm, lengths_of(r.lengths)}, r.rule, r.eps, stream);
      });
    });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CUDA, m) { RecurrentOps<Cuda>::add_to(m); }

}  // namespace xaifast
