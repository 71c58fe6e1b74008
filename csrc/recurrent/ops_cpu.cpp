// The recurrent ops on CPU tensors. Threads share the samples, each runs its own from the first
// step to the last (or back): between steps there is nothing to wait for. The products are BLAS's,
// on the rows of a thread.
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "common/threads.h"
#include "recurrent/ops.h"

namespace xaifast {
namespace {

// Rows [begin, end) of step t of x [T, N, K]: one view, for there are ten of them in each step.
at::Tensor rows_of(const at::Tensor& x, std::int64_t t, std::int64_t begin, std::int64_t end) {
  const std::int64_t first = x.storage_offset() + t * x.stride(0) + begin * x.stride(1);
  return x.as_strided({end - begin, x.size(2)}, {x.stride(1), x.stride(2)}, first);
}

// The steps of the samples, which decrease from one to the next; null where all have all.
const std::int64_t* lengths_of(const at::Tensor& lengths) {
  return lengths.defined() ? lengths.const_data_ptr<std::int64_t>() : nullptr;
}

template <class T>
void run_states(const States& s, std::int64_t begin, std::int64_t end) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const std::int64_t* const lengths = lengths_of(s.lengths);
  const at::Tensor w_t = s.w.t();
  const at::Tensor q_all = at::empty({end - begin, s.w.size(0)}, s.a.options());
  for (std::int64_t t = 0; t < s.T; ++t) {
    while (lengths != nullptr && end > begin && lengths[end - 1] <= t) --end;
    if (end == begin) return;
    const std::int64_t rows = end - begin;
    at::Tensor q = q_all.narrow(0, 0, rows);
    const at::Tensor a = rows_of(s.a, t, begin, end), h = rows_of(s.h, t, begin, end);
    const at::Tensor h_next = rows_of(s.h, t + 1, begin, end);
    at::Tensor z = rows_of(s.z, t, begin, end);
    if (s.lstm) {
      at::addmm_out(z, a, h, w_t);
      if (s.has_bias) z.add_(s.b);
      lstm_step(in<T>(z), in<T>(rows_of(s.c, t, begin, end)),
                out<T>(rows_of(s.c, t + 1, begin, end)), out<T>(h_next), rows, s.H);
    } else {
      at::addmm_out(q, s.b, h, w_t);
      gru_step(in<T>(a), in<T>(q), in<T>(h), out<T>(z), out<T>(h_next), rows, s.H);
    }
  }
}

// One target.
template <class T>
void run_relprop(const Relprop& r, std::int64_t target, std::int64_t begin, std::int64_t end) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const std::int64_t* const lengths = lengths_of(r.lengths);
  const std::int64_t all = end - begin, H = r.H;
  const at::Tensor R = r.R[target], s_all = r.s[target];
  const at::Tensor first = rows_of(r.R_h, target, begin, end);
  const at::Tensor R_c = rows_of(r.R_c, target, begin, end);
  const at::Tensor R_h = first.clone(), p_all = at::empty_like(R_h);
  at::Tensor direct, s_h_all;
  if (!r.lstm) {
    direct = at::empty_like(R_h);
    s_h_all = at::empty({all, r.width}, r.z.options());
  }
  std::int64_t rows = 0;  // that have step t
  for (std::int64_t t = r.T - 1; t >= 0; --t) {
    const std::int64_t before = rows;
    while (rows < all && (lengths == nullptr || lengths[begin + rows] > t)) ++rows;
    if (rows == 0) continue;
    end = begin + rows;
    R_h.slice(0, before, rows).add_(rows_of(R, t, begin + before, end));
    at::Tensor p = p_all.narrow(0, 0, rows);
    const at::Tensor s_h = r.lstm ? at::Tensor() : s_h_all.narrow(0, 0, rows);
    const at::Tensor z = rows_of(r.z, t, begin, end), h = rows_of(r.h, t, begin, end);
    const at::Tensor s = rows_of(s_all, t, begin, end);
    if (r.lstm) {
      lstm_step_back(in<T>(z), in<T>(r.b), in<T>(rows_of(r.c, t, begin, end)),
                     in<T>(rows_of(r.c, t + 1, begin, end)), in<T>(R_h), out<T>(R_c), out<T>(s),
                     r.rule, r.eps, rows, H);
    } else {
      gru_step_back(in<T>(z), in<T>(r.b), in<T>(h), in<T>(rows_of(r.h, t + 1, begin, end)),
                    in<T>(R_h), out<T>(direct), out<T>(s), out<T>(s_h), r.rule, r.eps, rows, H);
    }
    at::mm_out(p, r.lstm ? s : s_h, r.w);
    const T* beside = r.lstm ? nullptr : in<T>(direct);
    if (t > 0) {
      gather_state(in<T>(h), in<T>(p), beside, in<T>(rows_of(R, t - 1, begin, end)), out<T>(R_h),
                   rows * H);
    } else {
      gather_state<T>(in<T>(h), in<T>(p), beside, nullptr, out<T>(first), rows * H);
    }
  }
}

struct Cpu {
  static void states(const States& s) {
    AT_DISPATCH_FLOATING_TYPES(s.a.scalar_type(), "recurrent_states", [&] {
      share(s.N, s.T * s.H * 8,
            [&](std::int64_t begin, std::int64_t end) { run_states<scalar_t>(s, begin, end); });
    });
  }

  static void relprop(const Relprop& r) {
    AT_DISPATCH_FLOATING_TYPES(r.z.scalar_type(), "recurrent_relprop", [&] {
      share(r.N, r.targets * r.T * r.H * 8, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = 0; k < r.targets; ++k) run_relprop<scalar_t>(r, k, begin, end);
      });
    });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { RecurrentOps<Cpu>::add_to(m); }

}  // namespace xaifast
