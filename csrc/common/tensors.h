// What the glue of every family does with tensors: checks, layouts, pointers, number types. One of
// the three headers here that know PyTorch (with threads.h and stream.h); kernels include none.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/safe_numerics.h>

#include <algorithm>
#include <cstdint>

namespace xaifast {

// Floating dtypes that every kernel takes; a TypeError names the op otherwise.
inline void check_dtype(const char* op, const char* name, const at::Tensor& x) {
  const auto t = x.scalar_type();
  TORCH_CHECK_TYPE(t == at::kFloat || t == at::kDouble || t == at::kBFloat16 || t == at::kHalf, op,
                   ": ", name, " must be float32, float64, bfloat16 or float16, got ", t);
}

inline void check_like(const char* op, const char* name, const at::Tensor& x, const char* ref_name,
                       const at::Tensor& ref) {
  TORCH_CHECK_TYPE(x.scalar_type() == ref.scalar_type(), op, ": ", name, " must have the dtype of ",
                   ref_name, " (", ref.scalar_type(), "), got ", x.scalar_type());
  TORCH_CHECK_VALUE(x.device() == ref.device(), op, ": ", name, " must be on the device of ",
                    ref_name, " (", ref.device(), "), got ", x.device());
}

inline at::MemoryFormat layout_of(const at::Tensor& x) { return x.suggest_memory_format(); }

inline bool is_channels_last(at::MemoryFormat format) {
  return format == at::MemoryFormat::ChannelsLast || format == at::MemoryFormat::ChannelsLast3d;
}

inline std::int64_t product_of(at::IntArrayRef sizes) {
  std::int64_t n = 1;
  for (const auto s : sizes) n *= s;
  return n;
}

// The same, checked: an error names what would not fit, before anything is allocated. The strides
// of a dense tensor must fit as well, so that a size of 0 hides nothing.
inline std::int64_t checked_product(const char* op, const char* name, at::IntArrayRef sizes) {
  constexpr std::uint64_t kMax = std::uint64_t{1} << 60;  // 8 bytes each stay below 2^63
  std::uint64_t n = 1;
  bool fits = true;
  for (const auto s : sizes) {
    fits &= !c10::mul_overflows(n, static_cast<std::uint64_t>(std::max<std::int64_t>(s, 1)), &n);
  }
  TORCH_CHECK_VALUE(fits && n < kMax, op, ": ", name, " must have less than 2^60 elements, got ",
                    "the sizes ", sizes, "; work on fewer rows at a time");
  return product_of(sizes);
}

// Kernel sizes, strides, paddings or dilations: one for each position dimension, so small that the
// product of two and a size still fit into 64 bits.
inline void check_geometry(const char* op, const char* name, at::IntArrayRef list,
                           std::int64_t dims, std::int64_t least) {
  constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 1;
  TORCH_CHECK_VALUE(static_cast<std::int64_t>(list.size()) == dims, op, ": ", name, " must have ",
                    dims, " values, one for each position dimension, got ", list);
  for (const auto v : list) {
    TORCH_CHECK_VALUE(v >= least && v <= kMost, op, ": ", name, " must lie in [", least,
                      ", 2^31), got ", list);
  }
}

// f.operator()<T>() with the kernels' number type for the dtype of x; the 16-bit types are the
// backend's own, with the bits of ATen's.
template <class BFloat16, class Float16, class F>
void dispatch(const at::Tensor& x, const F& f) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return f.template operator()<float>();
    case at::kDouble:
      return f.template operator()<double>();
    case at::kBFloat16:
      return f.template operator()<BFloat16>();
    case at::kHalf:
      return f.template operator()<Float16>();
    default:
      TORCH_INTERNAL_ASSERT(false, "a dtype that check_dtype lets through: ", x.scalar_type());
  }
}

// The same for kernels that only copy: an unsigned integer of the size of a number of x.
template <class F>
void dispatch_words(const at::Tensor& x, const F& f) {
  switch (x.element_size()) {
    case 2:
      return f.template operator()<std::uint16_t>();
    case 4:
      return f.template operator()<std::uint32_t>();
    case 8:
      return f.template operator()<std::uint64_t>();
    default:
      TORCH_INTERNAL_ASSERT(false, "a dtype that check_dtype lets through: ", x.scalar_type());
  }
}

template <class T>
const T* in(const at::Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}
template <class T>
T* out(const at::Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

}  // namespace xaifast
