// The relevance kernels on CPU tensors: pointers out of tensors, threads over rows.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <torch/library.h>

#include <vector>

#include "common/threads.h"
#include "relevance/backward_product.h"
#include "relevance/ops.h"

namespace xaifast {
namespace {

struct Cpu {
  static void divide(const Divide& d, const at::Tensor& s, double eps) {
    run(d.z, d.shape.rows, d.shape.length * d.shape.targets,
        [&]<class T>(std::int64_t begin, std::int64_t end) {
          stabilized_divide<T>(in<T>(d.R), in<T>(d.z), static_cast<const T*>(d.bias()), out<T>(s),
                               d.shape, eps, begin, end);
        });
  }

  static void multiply(const Product& p) {
    run(p.u, p.shape.targets * p.shape.outer, p.shape.parts * p.shape.inner,
        [&]<class T>(std::int64_t begin, std::int64_t end) {
          multiply_parts<T>(in<T>(p.u), in<T>(p.c), out<T>(p.R), p.shape, begin, end);
        });
  }

  static void split(const Split& s) {
    run(s.a, s.shape.outer, 2 * s.shape.inner, [&]<class T>(std::int64_t begin, std::int64_t end) {
      split_signs<T>(in<T>(s.a), out<T>(s.u), s.shape.inner, begin, end);
    });
  }

  static void add_split(const Sum& s) {
    run(s.x, s.shape.n, s.shape.targets, [&]<class T>(std::int64_t begin, std::int64_t end) {
      xaifast::add_split<T>(in<T>(s.x), in<T>(s.y), in<T>(s.R), out<T>(s.Rx), out<T>(s.Ry), s.shape,
                            begin, end);
    });
  }

  // Channels are what the kernel's vectors run over: bring them to the end, and back.
  static void pool_channels_last(const Pool& p, double eps) {
    const auto last = [](const at::Tensor& x) { return x.flatten(2).transpose(1, 2).contiguous(); };
    const at::Tensor r = at::empty({p.r.size(0), positions(p.r), p.r.size(1)}, p.r.options());
    Pool q{last(p.a), last(p.R), r, p.shape, p.rule};
    q.shape.inner = p.a.size(1);
    q.shape.outer = p.a.size(0);
    pool(q, eps);
    p.r.flatten(2).copy_(q.r.transpose(1, 2));
  }

  // A task is long enough for a thread of its own. Windows overlap, so 16-bit types are summed in
  // float32 and rounded once.
  static void pool(const Pool& p, double eps) {
    if (p.a.scalar_type() == at::kHalf || p.a.scalar_type() == at::kBFloat16) {
      Pool wide{p.a.to(at::kFloat), p.R.to(at::kFloat), p.r.to(at::kFloat), p.shape, p.rule};
      pool(wide, eps);
      p.r.copy_(wide.r);
      return;
    }
    if (p.shape.inner < p.a.size(1) && p.shape.inner == 1) return pool_channels_last(p, eps);
    const std::int64_t block = pool_block(p.shape, at::get_num_threads());
    run(p.a, pool_tasks(p.shape, block), kGrain,
        [&]<class T>(std::int64_t begin, std::int64_t end) {
          pool_redistribute<T>(in<T>(p.a), in<T>(p.R), out<T>(p.r), p.shape, p.rule, eps, block,
                               begin, end);
        });
  }

  static at::Tensor backward_product(const at::Tensor& s, const at::Tensor& w);
};

// s [m, K] times w [K, J]. Few rows: only the rows of w that some s needs are read.
at::Tensor Cpu::backward_product(const at::Tensor& s, const at::Tensor& w) {
  const auto type = s.scalar_type();
  const bool few = s.size(0) <= kMaxRows && (type == at::kFloat || type == at::kDouble);
  if (!few || !w.is_contiguous() || w.numel() == 0) return at::matmul(s, w);
  const at::Tensor sc = s.contiguous();
  const RowsShape shape{s.size(0), w.size(0), w.size(1)};
  at::Tensor c = at::empty({shape.m, shape.J}, s.options());
  std::vector<std::int64_t> rows(shape.K);
  AT_DISPATCH_FLOATING_TYPES(type, "backward_product", [&] {
    const std::int64_t count = nonzero_rows<scalar_t>(in<scalar_t>(sc), shape, rows.data());
    at::parallel_for(0, shape.J, grain(count * shape.m), [&](std::int64_t begin, std::int64_t end) {
      multiply_rows<scalar_t>(in<scalar_t>(sc), in<scalar_t>(w), out<scalar_t>(c), shape,
                              rows.data(), count, begin, end);
    });
  });
  return c;
}

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { RelevanceOps<Cpu>::add_to(m); }

}  // namespace xaifast
