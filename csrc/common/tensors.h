// What the glue of every family does with tensors: checks, layouts, pointers, number types. One of
// the three headers here that know PyTorch (with threads.h and stream.h); kernels include none.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>
#include <c10/util/safe_numerics.h>

#include <algorithm>
#include <cstdint>
#include <optional>

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

// Of an op's argument that is there in every call but may be left out.
inline bool is_given(const std::optional<at::Tensor>& x) { return x.has_value() && x->defined(); }

// One number for each of `count`, along dimension 1 of what it is added to.
inline void check_bias(const char* op, const std::optional<at::Tensor>& b, const char* ref_name,
                       const at::Tensor& ref, std::int64_t count) {
  if (!is_given(b)) return;
  check_like(op, "b", *b, ref_name, ref);
  TORCH_CHECK_VALUE(b->dim() == 1 && b->size(0) == count, op, ": b must be [", count, "], got ",
                    b->sizes());
}

// ---- what is written over --------------------------------------------------------------------

// x has a place for each of its elements.
inline void check_writable(const char* op, const char* name, const at::Tensor& x) {
  TORCH_CHECK_VALUE(at::has_internal_overlap(x) != at::MemOverlap::Yes, op, ": ", name,
                    " must have a place for each of its elements, got shape ", x.sizes(),
                    " with strides ", x.strides(), "; clone() it");
}

// y, which is read, is x itself or apart from it. Where one of them is not dense, the op works on
// a copy of it, and the memory may be shared.
inline void check_apart(const char* op, const char* name, const at::Tensor& x, const char* y_name,
                        const at::Tensor& y) {
  TORCH_CHECK_VALUE(at::get_overlap_status(x, y) != at::MemOverlapStatus::Partial, op, ": ", y_name,
                    " must not share a part of the memory of ", name,
                    ", which is written over; clone() one of them");
}

// Autograd and whoever keeps what was derived from x learn that it has changed.
inline void mark_written(const at::Tensor& x) {
  if (!x.is_inference()) x.unsafeGetTensorImpl()->bump_version();
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
