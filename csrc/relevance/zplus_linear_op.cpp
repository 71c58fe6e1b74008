// zplus_linear on any device: checks, allocation, threads over blocks of units on the CPU. What the
// kernel is not for goes by relprop_linear (relprop.cpp) and weights that are made for the call.
#include <ATen/Dispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "common/threads.h"
#include "relevance/backward_product.h"
#include "relevance/shapes.h"
#include "relevance/zplus_linear.h"

namespace xaifast {
namespace {

constexpr const char* kOp = "zplus_linear";

// Blocks of units, each with a c of its own: as many whatever the threads, so that the sums have
// one order, and enough to keep those busy that reading from memory takes.
constexpr std::int64_t kBlocks = 16;

std::int64_t units_in_block(std::int64_t count) {
  const std::int64_t even = (count + kBlocks - 1) / kBlocks;
  const std::int64_t groups = (even + kUnitsAtOnce - 1) / kUnitsAtOnce;
  return std::max<std::int64_t>(groups, 2) * kUnitsAtOnce;
}

ZplusLinear plan_zplus_linear(const at::Tensor& a, const at::Tensor& R, const at::Tensor& w,
                              const std::optional<at::Tensor>& b, at::ArrayRef<double> share,
                              at::ArrayRef<double> positive, at::ArrayRef<double> negative,
                              double eps) {
  check_dtype(kOp, "a", a);
  check_like(kOp, "R", R, "a", a);
  check_like(kOp, "w", w, "a", a);
  TORCH_CHECK_VALUE(a.dim() == 2, kOp, ": a must be [N, in], got ", a.sizes(),
                    "; flatten the leading dimensions");
  TORCH_CHECK_VALUE(w.dim() == 2 && w.size(1) == a.size(1), kOp, ": w must be [out, ", a.size(1),
                    "] for a ", a.sizes(), ", got ", w.sizes());
  const std::int64_t outputs[] = {a.size(0), w.size(0)};
  ZplusLinear shape{count_targets(kOp, R, outputs, "the output"), a.size(0), w.size(0), w.size(1),
                    static_cast<std::int64_t>(share.size()),      {},        eps};
  if (b.has_value() && b->defined()) {
    check_like(kOp, "b", *b, "a", a);
    TORCH_CHECK_VALUE(b->dim() == 1 && b->size(0) == shape.K, kOp, ": b must be [", shape.K,
                      "], got ", b->sizes());
  }
  const bool same = positive.size() == share.size() && negative.size() == share.size();
  TORCH_CHECK_VALUE(same && shape.parts >= 1 && shape.parts <= kMostSignParts, kOp,
                    ": share, positive and negative must have one number for each of 1 or ",
                    kMostSignParts, " parts, got ", share, ", ", positive, " and ", negative);
  for (std::size_t p = 0; p < share.size(); ++p) {
    shape.part[p] = {share[p], positive[p], negative[p]};
  }
  const std::int64_t result[] = {shape.targets, shape.N, shape.J};
  checked_product(kOp, "the result", result);
  return shape;
}

// The same in weights for a+ and a-, side by side.
at::Tensor compose(const at::Tensor& a, const at::Tensor& R, const at::Tensor& w,
                   const std::optional<at::Tensor>& b, const ZplusLinear& shape) {
  using Relprop = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                             const std::optional<at::Tensor>&, const std::optional<at::Tensor>&,
                             double, std::int64_t);
  static const auto relprop = c10::Dispatcher::singleton()
                                  .findSchemaOrThrow("xaifast::relprop_linear", "")
                                  .typed<Relprop>();
  const auto by_sign = [](const at::Tensor& x, double positive, double negative) {
    return x.clamp_min(0).mul(positive).add(x.clamp_max(0), negative);
  };
  const at::Tensor u = at::cat({a.clamp_min(0), a.clamp_max(0)}, 1);
  at::Tensor total;
  for (std::int64_t p = 0; p < shape.parts; ++p) {
    const auto [share, positive, negative] = shape.part[p];
    const at::Tensor v =
        at::cat({by_sign(w, positive, negative), by_sign(w, negative, positive)}, 1);
    std::optional<at::Tensor> own;
    if (b.has_value() && b->defined()) own = by_sign(*b, positive, negative);
    const at::Tensor part = relprop.call(u, R, v, own, std::nullopt, shape.eps, 2).mul(share);
    total = p == 0 ? part : total.add(part);
  }
  return total;
}

template <class T>
void run_zplus_linear(const at::Tensor& a, const at::Tensor& R, const at::Tensor& w,
                      const at::Tensor& b, const at::Tensor& result, const ZplusLinear& shape) {
  std::vector<std::int64_t> units(static_cast<std::size_t>(shape.K));
  const std::int64_t count =
      nonzero_rows<T>(in<T>(R), {shape.rows(), shape.K, shape.J}, units.data());
  const std::int64_t block = units_in_block(count), blocks = (count + block - 1) / block;
  const std::int64_t numbers = shape.rows() * shape.J;
  const at::Tensor c = at::empty({blocks, numbers}, a.options());
  share(blocks, block * numbers, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      zplus_linear<T>(in<T>(a), in<T>(R), in<T>(w), b.defined() ? in<T>(b) : nullptr,
                      out<T>(c) + i * numbers, shape, units.data(), i * block,
                      std::min((i + 1) * block, count));
    }
  });
  share(numbers, blocks, [&](std::int64_t begin, std::int64_t end) {
    sum_blocks<T>(in<T>(c), in<T>(a), out<T>(result), shape, blocks, begin, end);
  });
}

bool is_for_kernel(const at::Tensor& a, const at::Tensor& w, const ZplusLinear& shape) {
  const auto type = a.scalar_type();
  return a.is_cpu() && (type == at::kFloat || type == at::kDouble) && w.is_contiguous() &&
         shape.rows() <= kMaxRows;
}

at::Tensor zplus_linear_op(const at::Tensor& a_, const at::Tensor& R_, const at::Tensor& w,
                           const std::optional<at::Tensor>& b, at::ArrayRef<double> share,
                           at::ArrayRef<double> positive, at::ArrayRef<double> negative,
                           double eps) {
  const ZplusLinear shape = plan_zplus_linear(a_, R_, w, b, share, positive, negative, eps);
  if (!is_for_kernel(a_, w, shape)) return compose(a_, R_, w, b, shape);
  const at::Tensor a = a_.contiguous(), R = R_.contiguous();
  const at::Tensor bias = b.has_value() && b->defined() ? b->contiguous() : at::Tensor();
  std::vector<std::int64_t> sizes = a.sizes().vec();
  if (R.dim() == 3) sizes.insert(sizes.begin(), shape.targets);
  const at::Tensor result = at::empty(sizes, a.options());
  AT_DISPATCH_FLOATING_TYPES(a.scalar_type(), kOp,
                             [&] { run_zplus_linear<scalar_t>(a, R, w, bias, result, shape); });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { m.impl("zplus_linear", &zplus_linear_op); }
#ifdef XAIFAST_WITH_CUDA
TORCH_LIBRARY_IMPL(xaifast, CUDA, m) { m.impl("zplus_linear", &zplus_linear_op); }
#endif

}  // namespace xaifast
