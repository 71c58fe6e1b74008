// zplus_conv on CUDA tensors: the library's convolutions, or one of our kernels on channels-last
// memory. Compiled by the host compiler; the kernels are in the .cu files.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <type_traits>

#include "common/stream.h"
#include "zplus_conv/gather.h"
#include "zplus_conv/kernels_cuda.h"
#include "zplus_conv/ops_composed.h"
#include "zplus_conv/pixels.h"

namespace xaifast {
namespace {

constexpr const char* kOp = "zplus_conv";

at::Tensor channels_inside(const at::Tensor& x) {
  return (x.dim() == 3 ? x.unsqueeze(2) : x).contiguous(at::MemoryFormat::ChannelsLast);
}

// w with both kinds of channels exchanged within each group: [C, K / groups, *kernel].
at::Tensor exchanged(const at::Tensor& w, std::int64_t groups) {
  return w.unflatten(0, {groups, w.size(0) / groups}).transpose(1, 2).flatten(0, 1);
}

// The tensors in the kernels' memory, with one position dimension more where there is one only.
struct Conv {
  at::Tensor a, R, w, w_t, b, s, r;
  ConvShape shape{};

  template <class T>
  ConvTensors<T> tensors() const {
    return {in<T>(a),  in<T>(R), in<T>(w), in<T>(w_t), b.defined() ? in<T>(b) : nullptr,
            out<T>(s), out<T>(r)};
  }
};

Conv plan(const at::Tensor& a, const at::Tensor& R, const at::Tensor& w,
          const std::optional<at::Tensor>& w_t, const std::optional<at::Tensor>& b,
          const ConvArguments& c) {
  Conv conv;
  conv.a = channels_inside(a);
  conv.R = channels_inside(R.dim() > a.dim() ? R.flatten(0, 1) : R);
  conv.w = channels_inside(w);
  conv.w_t = channels_inside(w_t.has_value() && w_t->defined() ? *w_t : exchanged(w, c.groups));
  if (b.has_value() && b->defined()) conv.b = b->contiguous();
  const std::int64_t targets = R.dim() > a.dim() ? R.size(0) : 1;
  conv.s = at::empty_like(conv.R, conv.R.options(), at::MemoryFormat::ChannelsLast);
  conv.r = at::empty({targets * a.size(0), conv.a.size(1), conv.a.size(2), conv.a.size(3)},
                     a.options().memory_format(at::MemoryFormat::ChannelsLast));
  ConvShape& p = conv.shape;
  p.rule = conv_rule(c.rule);
  p.nonnegative = c.nonnegative;
  p.targets = targets;
  p.batch = a.size(0);
  p.groups = c.groups;
  p.channels = w.size(1);
  p.units = w.size(0) / c.groups;
  for (int d = 0; d < 2; ++d) {
    p.in[d] = conv.a.size(2 + d);
    p.out[d] = conv.R.size(2 + d);
    p.kernel[d] = conv.w.size(2 + d);
    const int from = d - (a.dim() == 3 ? 1 : 0);
    p.stride[d] = from < 0 ? 1 : c.stride[from];
    p.padding[d] = from < 0 ? 0 : c.padding[from];
    p.dilation[d] = from < 0 ? 1 : c.dilation[from];
  }
  for (std::size_t i = 0; i < c.low.size() && i < kPixelChannels; ++i) {
    p.low[i] = c.low[i];
    p.high[i] = c.high[i];
  }
  return conv;
}

void check_clamps(const Conv& conv, std::string_view kernel) {
  const bool box = conv.shape.rule == ConvRule::kBox, square = conv.shape.rule == ConvRule::kSquare;
  TORCH_CHECK_VALUE(!box && !square && fits_tiles(conv.shape), kOp, ": kernel '", kernel,
                    "' takes the rules 'all', 'positive' and 'negative', and sizes below 2^20; "
                    "take kernel 'library'");
}

void run_tiles(const Conv& conv, double eps) {
  check_clamps(conv, "tiles");
  TORCH_CHECK_TYPE(conv.a.scalar_type() == at::kFloat, kOp, ": kernel 'tiles' takes float32, got ",
                   conv.a.scalar_type(), "; take kernel 'library'");
  launch_on(kOp, conv.a, [&](cudaStream_t stream) {
    return conv_tiles_cuda(conv.shape, conv.tensors<float>(), eps, stream);
  });
}

// f.operator()<T>() for the number types that are summed in float32.
template <class F>
void run_narrow(const Conv& conv, std::string_view kernel, const F& f) {
  TORCH_CHECK_TYPE(conv.a.scalar_type() != at::kDouble, kOp, ": kernel '", kernel,
                   "' does not take float64; take kernel 'library'");
  run(kOp, conv.a, [&]<class T>(cudaStream_t stream) {
    if constexpr (std::is_same_v<T, double>) {
      return cudaErrorInvalidValue;  // refused above
    } else {
      return f.template operator()<T>(stream);
    }
  });
}

void run_tensor_cores(const Conv& conv, double eps) {
  check_clamps(conv, "tensor_cores");
  run_narrow(conv, "tensor_cores", [&]<class T>(cudaStream_t stream) {
    return conv_tensor_cores_cuda<T>(conv.shape, conv.tensors<T>(), eps, stream);
  });
}

void run_pixels(const Conv& conv, double eps) {
  TORCH_CHECK_VALUE(pixels_fit(conv.shape), kOp, ": kernel 'pixels' takes one group, at most ",
                    kPixelChannels, " channels and small kernels; take kernel 'library'");
  run_narrow(conv, "pixels", [&]<class T>(cudaStream_t stream) {
    return conv_pixels_cuda<T>(conv.shape, conv.tensors<T>(), eps, stream);
  });
}

at::Tensor zplus_conv_on_cuda(const at::Tensor& a, const at::Tensor& R, const at::Tensor& w,
                              const std::optional<at::Tensor>& w_t,
                              const std::optional<at::Tensor>& b, at::IntArrayRef stride,
                              at::IntArrayRef padding, at::IntArrayRef dilation,
                              std::int64_t groups, std::string_view rule, at::ArrayRef<double> low,
                              at::ArrayRef<double> high, bool nonnegative, double eps,
                              std::string_view kernel) {
  const ConvArguments c{stride, padding, dilation, groups, rule, low, high, nonnegative, eps};
  check_conv(a, R, w, b, c);
  if (kernel == "library") return compose_zplus_conv(a, R, w, b, c);
  TORCH_CHECK_VALUE(a.dim() <= 4, kOp, ": kernel '", kernel,
                    "' takes one or two position dimensions, got a ", a.sizes(),
                    "; take kernel 'library'");
  const Conv conv = plan(a, R, w, w_t, b, c);
  TORCH_CHECK_VALUE(
      conv.shape.rule != ConvRule::kBox || (groups == 1 && conv.shape.channels <= kPixelChannels),
      kOp, ": rule 'box' takes at most ", kPixelChannels, " channels in one group with kernel '",
      kernel, "'; take kernel 'library'");
  if (kernel == "tiles") {
    run_tiles(conv, eps);
  } else if (kernel == "tensor_cores") {
    run_tensor_cores(conv, eps);
  } else if (kernel == "pixels") {
    run_pixels(conv, eps);
  } else {
    TORCH_CHECK_VALUE(false, kOp,
                      ": kernel must be 'library', 'tiles', 'tensor_cores' or 'pixels', "
                      "got '",
                      kernel, "'");
  }
  const at::Tensor r = a.dim() == 3 ? conv.r.squeeze(2) : conv.r;
  return with_targets(r.contiguous(layout_of(a)), R, a.dim());
}

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CUDA, m) { m.impl("zplus_conv", &zplus_conv_on_cuda); }

}  // namespace xaifast
