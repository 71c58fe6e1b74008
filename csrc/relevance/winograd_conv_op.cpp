// winograd_conv on CPU tensors: checks, allocation, threads over blocks of tiles. On other devices
// its formula in plain PyTorch takes its place (xaifast/ops/winograd.py).
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/threads.h"
#include "relevance/winograd_conv.h"

namespace xaifast {
namespace {

// Tiles that pass through the kernel at once: rows enough for its products, few enough for caches.
constexpr std::int64_t kBlock = 72;

WinogradShape winograd_shape(const at::Tensor& x, const at::Tensor& w,
                             const std::optional<at::Tensor>& b, std::int64_t padding) {
  constexpr const char* op = "winograd_conv";
  const auto type = x.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble, op,
                   ": x must be float32 or float64, got ", type);
  check_like(op, "w", w, "x", x);
  TORCH_CHECK_VALUE(x.dim() == 4, op, ": x must be [N, C, H, W], got ", x.sizes());
  const std::int64_t panel = 128 / x.element_size(), C = x.size(1);
  const bool fits = w.dim() == 5 && w.size(0) == 4 && w.size(1) == 4 && w.size(3) == C &&
                    w.size(4) == panel && C % (panel / 2) == 0;
  TORCH_CHECK_VALUE(fits, op, ": w must be [4, 4, K / ", panel, ", C, ", panel, "], C = ", C,
                    " of x a multiple of ", panel / 2, ", got ", w.sizes(),
                    "; ops.winograd_weights makes it");
  const std::int64_t K = w.size(2) * panel;
  if (b.has_value() && b->defined()) {
    check_like(op, "b", *b, "x", x);
    TORCH_CHECK_VALUE(b->dim() == 1 && b->size(0) == K, op, ": b must be [", K, "], got ",
                      b->sizes());
  }
  TORCH_CHECK_VALUE(padding == 0 || padding == 1, op, ": padding must be 0 or 1, got ", padding);
  const std::int64_t H = x.size(2) + 2 * padding - 2, W = x.size(3) + 2 * padding - 2;
  TORCH_CHECK_VALUE(H >= 0 && W >= 0, op, ": without padding x must have 2 rows and columns at ",
                    "least, got ", x.sizes());
  const std::int64_t sizes[] = {x.size(0), K, H, W};
  checked_product(op, "the result", sizes);
  return {x.size(0), H, W, C, K, padding};
}

template <class T>
void run_winograd(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, bool relu,
                  const at::Tensor& y, const WinogradShape& s) {
  // As many blocks for each thread, all of about the same size.
  const std::int64_t tiles = s.tiles(), threads = at::get_num_threads(), turn = kBlock * threads;
  const std::int64_t blocks = (tiles + turn - 1) / turn * threads;
  const std::int64_t block = (tiles + blocks - 1) / blocks;
  at::parallel_for(0, (tiles + block - 1) / block, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::Tensor scratch = at::empty({winograd_scratch<T>(s, block)}, x.options());
    winograd<T>(x.const_data_ptr<T>(), w.const_data_ptr<T>(),
                b.defined() ? b.const_data_ptr<T>() : nullptr, relu, y.mutable_data_ptr<T>(),
                scratch.mutable_data_ptr<T>(), s, block, begin * block,
                std::min(end * block, tiles));
  });
}

at::Tensor winograd_conv(const at::Tensor& x_, const at::Tensor& w_,
                         const std::optional<at::Tensor>& b_, bool relu, std::int64_t padding) {
  const WinogradShape s = winograd_shape(x_, w_, b_, padding);
  const auto last = at::MemoryFormat::ChannelsLast;
  const at::Tensor x = x_.contiguous(last), w = w_.contiguous();
  const at::Tensor b = b_.has_value() && b_->defined() ? b_->contiguous() : at::Tensor();
  const at::Tensor y = at::empty({s.N, s.K, s.H, s.W}, x.options().memory_format(last));
  if (y.numel() == 0) return y;
  if (x.scalar_type() == at::kFloat) {
    run_winograd<float>(x, w, b, relu, y, s);
  } else {
    run_winograd<double>(x, w, b, relu, y, s);
  }
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CPU, m) { m.impl("winograd_conv", &winograd_conv); }

}  // namespace xaifast
