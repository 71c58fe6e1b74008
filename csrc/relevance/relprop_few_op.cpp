// relprop_few on CPU tensors: checks, allocation, threads over rows of inputs. On other devices its
// formula in plain PyTorch takes its place (xaifast/ops/few.py).
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/threads.h"
#include "relevance/relprop_few.h"
#include "relevance/shapes.h"

namespace xaifast {
namespace {

constexpr const char* kOp = "relprop_few";

void check_few_geometry(at::IntArrayRef kernel, at::IntArrayRef stride, at::IntArrayRef padding) {
  check_geometry(kOp, "kernel", kernel, 2, 1);
  check_geometry(kOp, "stride", stride, 2, 1);
  check_geometry(kOp, "padding", padding, 2, 0);
  TORCH_CHECK_VALUE(kernel[0] <= kFewRows, kOp, ": kernel must have at most ", kFewRows,
                    " rows, got ", kernel, "; take relprop_conv");
}

void check_panels(const char* name, const at::Tensor& w, const at::Tensor& u, std::int64_t rows,
                  std::int64_t columns) {
  check_like(kOp, name, w, "u", u);
  const std::int64_t P = 128 / u.element_size();
  const std::int64_t sizes[] = {(columns + P - 1) / P, rows, P};
  TORCH_CHECK_VALUE(w.sizes() == at::IntArrayRef(sizes), kOp, ": ", name, " must be ",
                    at::IntArrayRef(sizes), ", got ", w.sizes(), "; ops.few_weights makes it");
}

FewShape few_shape(const at::Tensor& u, const at::Tensor& R, const at::Tensor& w,
                   const at::Tensor& w_back, at::IntArrayRef kernel, at::IntArrayRef stride,
                   at::IntArrayRef padding, std::int64_t parts) {
  const auto type = u.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble, kOp,
                   ": u must be float32 or float64, got ", type);
  TORCH_CHECK_VALUE(u.dim() == 4, kOp, ": u must be [N, C, H, W], got ", u.sizes());
  TORCH_CHECK_VALUE(parts == 1 || parts == 2, kOp, ": parts must be 1 or 2, got ", parts);
  TORCH_CHECK_VALUE(u.size(1) <= kFewChannels && u.size(1) % parts == 0, kOp, ": u must have at ",
                    "most ", kFewChannels, " channels, a multiple of parts=", parts, ", got ",
                    u.sizes(), "; take relprop_conv");
  check_few_geometry(kernel, stride, padding);
  check_like(kOp, "R", R, "u", u);
  TORCH_CHECK_VALUE(R.dim() == 4 || R.dim() == 5, kOp, ": R must be [N, K, rows, columns] or ",
                    "[targets, N, K, rows, columns], got ", R.sizes());
  FewShape s{R.dim() == 5 ? R.size(0) : 1,
             u.size(0),
             parts,
             u.size(1) / parts,
             u.size(2),
             u.size(3),
             R.size(-3),
             0,
             0,
             {kernel[0], kernel[1]},
             {stride[0], stride[1]},
             {padding[0], padding[1]}};
  const auto outputs = [&](int d) {
    const std::int64_t span = u.size(d + 2) + 2 * padding[d] - kernel[d];
    return span < 0 ? 0 : span / stride[d] + 1;
  };
  s.rows = outputs(0);
  s.columns = outputs(1);
  const std::int64_t sizes[] = {s.N, s.K, s.rows, s.columns};
  count_targets(kOp, R, sizes, "the output");
  const std::int64_t P = 128 / u.element_size();
  check_panels("w", w, u, s.inputs(), s.K);
  check_panels("w_back", w_back, u, (s.K + P - 1) / P * P, s.inputs());
  const std::int64_t result[] = {s.targets, s.N, s.C, s.H, s.W};
  checked_product(kOp, "the result", result);
  return s;
}

template <class T, class Data>
Map<T> map_of(const at::Tensor& x, Data* data) {
  return {data,        x.dim() == 5 ? x.stride(0) : 0, x.stride(-4), x.stride(-3), x.stride(-2),
          x.stride(-1)};
}

template <class T>
void run_few(const at::Tensor& u, const at::Tensor& R, const at::Tensor& w,
             const at::Tensor& w_back, const at::Tensor& b, const at::Tensor& z,
             const at::Tensor& result, const FewShape& s, double eps) {
  const auto read = [](const at::Tensor& x) { return map_of<const T>(x, x.const_data_ptr<T>()); };
  const FewTensors<T> tensors{read(u),
                              read(R),
                              z.defined() ? read(z) : Map<const T>{},
                              map_of<T>(result, result.mutable_data_ptr<T>()),
                              w.const_data_ptr<T>(),
                              w_back.const_data_ptr<T>(),
                              b.const_data_ptr<T>()};
  // A thread begins with rows of outputs that the one before has made, too: few, long bands.
  share(s.N * s.H, s.W * s.K * s.inputs() * s.targets, [&](std::int64_t begin, std::int64_t end) {
    const at::Tensor scratch = at::empty({few_scratch<T>(s)}, u.options());
    relprop_few<T>(tensors, s, eps, scratch.mutable_data_ptr<T>(), begin, end);
  });
}

at::Tensor relprop_few_conv(const at::Tensor& u, const at::Tensor& R, const at::Tensor& w_,
                            const at::Tensor& w_back_, const std::optional<at::Tensor>& b_,
                            const std::optional<at::Tensor>& z_, at::IntArrayRef kernel,
                            at::IntArrayRef stride, at::IntArrayRef padding, double eps,
                            std::int64_t parts) {
  const FewShape s = few_shape(u, R, w_, w_back_, kernel, stride, padding, parts);
  const at::Tensor w = w_.contiguous(), w_back = w_back_.contiguous();
  check_bias(kOp, b_, "u", u, s.K);
  at::Tensor z, b = at::zeros({s.K}, u.options());
  if (z_.has_value() && z_->defined()) {
    z = *z_;
    check_like(kOp, "z", z, "u", u);
    const std::int64_t sizes[] = {s.N, s.K, s.rows, s.columns};
    TORCH_CHECK_VALUE(z.sizes() == at::IntArrayRef(sizes), kOp, ": z must be ",
                      at::IntArrayRef(sizes), ", got ", z.sizes());
  } else if (b_.has_value() && b_->defined()) {
    b = b_->contiguous();
  }
  const at::Tensor rows =
      at::empty({s.targets * s.N, s.C, s.H, s.W}, u.options().memory_format(layout_of(u)));
  const at::Tensor result = with_targets(rows, R, 4);
  if (result.numel() == 0) return result;
  if (u.scalar_type() == at::kFloat) {
    run_few<float>(u, R, w, w_back, b, z, result, s, eps);
  } else {
    run_few<double>(u, R, w, w_back, b, z, result, s, eps);
  }
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { m.impl("relprop_few", &relprop_few_conv); }

}  // namespace xaifast
