#include "relevance/relprop_few.h"

#include <algorithm>

#include "common/clones.h"
#include "common/stabilizer.h"

// No vector leaves its function, whatever GCC notes about ABIs.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace xaifast {
namespace {

// Outputs whose patches are multiplied at once: rows enough for the products, few enough for the
// nearest cache.
constexpr std::int64_t kBlock = 4 * kRows;

// Targets that share a denominator while it is in the cache.
constexpr std::int64_t kTargets = 16;

// All channels of an input, and whatever comes behind them.
template <class T>
using Pixel = typename Register<T, kFewChannels>::type;

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

// ---- steps: plain loops ----------------------------------------------------------------------

// to[j, c] = x[c, j], C numbers for each j; strides of x in j and in c.
template <class T>
XAI_CLONES void gather(const T* x, std::int64_t step, std::int64_t channel, T* to,
                       std::int64_t pitch, std::int64_t count, std::int64_t C) {
  if (channel == 1) {
    for (std::int64_t j = 0; j < count; ++j) {
      for (std::int64_t c = 0; c < C; ++c) to[j * pitch + c] = x[j * step + c];
    }
    return;
  }
  for (std::int64_t c = 0; c < C; ++c) {
    for (std::int64_t j = 0; j < count; ++j) to[j * pitch + c] = x[j * step + c * channel];
  }
}

// v[r] = the patch of output r: `run` numbers of each row of the kernel. Reads and writes up to a
// register more.
template <class T>
XAI_CLONES void copy_patches(const T* const* rows, std::int64_t kernel_rows, std::int64_t run,
                             std::int64_t step, T* v, std::int64_t count) {
  for (std::int64_t r = 0; r < count; ++r) {
    for (std::int64_t i = 0; i < kernel_rows; ++i, v += run) {
      const T* const from = rows[i] + r * step;
      for (std::int64_t x = 0; x < run; x += kLanes<T>) vec(v + x) = vec(from + x);
    }
  }
}

// Rows of K numbers, `pitch` apart.
template <class T>
struct Rows {
  T* data;
  std::int64_t pitch;
};

// s = R / (z + b + eps sgn(z + b)), and zeros behind it.
template <class T>
XAI_CLONES void divide(Rows<const T> R, Rows<const T> z, const T* b, Rows<T> s, std::int64_t count,
                       std::int64_t K, T eps) {
  for (std::int64_t r = 0; r < count; ++r) {
    const T *const R_r = R.data + r * R.pitch, *const z_r = z.data + r * z.pitch;
    T* const s_r = s.data + r * s.pitch;
#pragma omp simd
    for (std::int64_t k = 0; k < K; ++k) {
      s_r[k] = stabilized_quotient<T>(R_r[k], z_r[k] + b[k], eps);
    }
    for (std::int64_t k = K; k < s.pitch; ++k) s_r[k] = T(0);
  }
}

// One axis of a convolution.
struct Axis {
  std::int64_t in, out, kernel, stride, padding;
};

// c[x] += what the outputs of a row hand back to input x; `pitch` numbers for each output, those of
// this row of the kernel first.
template <class T>
XAI_CLONES void add_columns(const T* columns, std::int64_t pitch, std::int64_t channels, Axis a,
                            T* c) {
  const std::int64_t back = a.stride * channels - pitch;  // the output before, a stride further on
  for (std::int64_t r = 0; r < a.stride && r < a.kernel; ++r) {  // inputs that lie alike
    const std::int64_t taps = (a.kernel - r + a.stride - 1) / a.stride;
    std::int64_t q = a.padding <= r ? 0 : (a.padding - r + a.stride - 1) / a.stride;
    for (std::int64_t x = q * a.stride + r - a.padding; x < a.in; x += a.stride, ++q) {
      const std::int64_t first = q < a.out ? 0 : q - a.out + 1;
      const std::int64_t end = q < taps ? q + 1 : taps;
      const T* from = columns + (q - first) * pitch + (r + first * a.stride) * channels;
      Pixel<T>& sum = *reinterpret_cast<Pixel<T>*>(c + x * kFewChannels);
      Pixel<T> total = sum;
      for (std::int64_t m = first; m < end; ++m, from += back) {
        total += *reinterpret_cast<const Pixel<T>*>(from);
      }
      sum = total;
    }
  }
}

// R = sum over parts of u c for one channel of a row of inputs, with the strides of u and R.
template <class T>
XAI_CLONES void multiply_inputs(const T* u, std::int64_t u_step, std::int64_t u_part, const T* c,
                                std::int64_t c_part, std::int64_t parts, T* R, std::int64_t R_step,
                                std::int64_t W) {
  for (std::int64_t x = 0; x < W; ++x) {
    T sum = u[x * u_step] * c[x * kFewChannels];
    if (parts == 2) sum += u[x * u_step + u_part] * c[x * kFewChannels + c_part];
    R[x * R_step] = sum;
  }
}

// ---- rows ------------------------------------------------------------------------------------

// Where everything lies in a thread's scratch.
template <class T>
struct Places {
  std::int64_t K, J;          // padded to panels
  std::int64_t u_row, c_row;  // from one row to the next
  std::int64_t zeros, v, z, R, s, columns, c, total;

  explicit Places(const FewShape& a) {
    constexpr std::int64_t P = 2 * kLanes<T>;
    K = round_up(a.K, P);
    J = round_up(a.inputs(), P);
    u_row = round_up((a.W + 2 * a.padding[1]) * a.channels(), P) + P;
    c_row = a.W * kFewChannels;
    zeros = a.kernel[0] * u_row;
    v = zeros + u_row;
    z = v + round_up(kBlock * a.inputs(), P) + P;
    R = z + padded_rows(a.columns) * K;
    s = R + kBlock * K;
    columns = s + kBlock * K;
    c = columns + padded_rows(a.columns) * J + P;
    total = c + std::min(kTargets, a.targets) * a.kernel[0] * c_row;
  }
};

// A band of rows of inputs of one sample, for some of the targets. Rows of u and c are kept for as
// long as the kernel reaches them, row i in place i mod the kernel's rows.
template <class T>
struct Band {
  const FewTensors<T>& t;
  const FewShape& a;
  T eps;
  T* scratch;
  std::int64_t n, begin, end, first_target, targets;
  Places<T> at = Places<T>(a);

  void run() {
    const std::int64_t kernel = a.kernel[0], stride = a.stride[0], padding = a.padding[0];
    const std::int64_t before = std::max<std::int64_t>(0, begin + padding - kernel + 1);
    const std::int64_t first = (before + stride - 1) / stride;
    const std::int64_t last = std::min(a.rows, (end - 1 + padding) / stride + 1);
    std::int64_t loaded = 0, finished = begin;
    std::fill(scratch + at.zeros, scratch + at.v, T(0));
    std::fill(scratch + at.c, scratch + at.total, T(0));
    for (std::int64_t row = first; row < last; ++row) {
      const std::int64_t top = row * stride - padding;
      for (; finished < std::min(top, end); ++finished) finish(finished);
      for (loaded = std::max(loaded, top); loaded < std::min(top + kernel, a.H); ++loaded)
        load(loaded);
      if (t.z.data == nullptr) denominators(top);
      for (std::int64_t target = 0; target < targets; ++target) hand_back(row, top, target);
    }
    for (; finished < end; ++finished) finish(finished);
  }

  T* u_row(std::int64_t i) const { return scratch + i % a.kernel[0] * at.u_row; }
  T* c_row(std::int64_t i, std::int64_t target) const {
    return scratch + at.c + (target * a.kernel[0] + i % a.kernel[0]) * at.c_row;
  }

  // A row of u, channels inside, between its padding.
  void load(std::int64_t i) const {
    const std::int64_t C = a.channels(), left = a.padding[1] * C, right = left + a.W * C;
    T* const row = u_row(i);
    std::fill(row, row + left, T(0));
    std::fill(row + right, row + at.u_row, T(0));
    gather(t.u.data + n * t.u.n + i * t.u.i, t.u.j, t.u.c, row + left, C, a.W, C);
  }

  // z = w u of a row of outputs, whose windows start at row `top`.
  void denominators(std::int64_t top) const {
    const std::int64_t J = a.inputs(), C = a.channels(), step = a.stride[1] * C;
    const T* rows[kFewRows];
    T* const v = scratch + at.v;
    for (std::int64_t j = 0; j < a.columns; j += kBlock) {
      const std::int64_t count = std::min(kBlock, a.columns - j), padded = padded_rows(count);
      for (std::int64_t i = 0; i < a.kernel[0]; ++i) {
        const bool inside = 0 <= top + i && top + i < a.H;
        rows[i] = (inside ? u_row(top + i) : scratch + at.zeros) + j * step;
      }
      copy_patches(rows, a.kernel[0], a.kernel[1] * C, step, v, count);
      std::fill(v + count * J, v + padded * J, T(0));
      multiply_rows(v, t.w, scratch + at.z + j * at.K, padded, J, at.K);
    }
  }

  // `count` outputs of R or z from column j on: as they lie, or copied where channels are apart.
  Rows<const T> outputs(const Map<const T>& x, std::int64_t target, std::int64_t row,
                        std::int64_t j, std::int64_t count, T* copy) const {
    const T* const from = x.data + target * x.target + n * x.n + row * x.i + j * x.j;
    if (x.c == 1) return {from, x.j};
    gather(from, x.j, x.c, copy, at.K, count, a.K);
    return {copy, at.K};
  }

  // c += w^T (R / z) of a row of outputs for one target.
  void hand_back(std::int64_t row, std::int64_t top, std::int64_t target) const {
    T *const s = scratch + at.s, *const columns = scratch + at.columns;
    for (std::int64_t j = 0; j < a.columns; j += kBlock) {
      const std::int64_t count = std::min(kBlock, a.columns - j), padded = padded_rows(count);
      const auto R = outputs(t.R, first_target + target, row, j, count, scratch + at.R);
      T* const own = scratch + at.z + j * at.K;
      const Rows<const T> z =
          t.z.data == nullptr ? Rows<const T>{own, at.K} : outputs(t.z, 0, row, j, count, own);
      divide(R, z, t.b, Rows<T>{s, at.K}, count, a.K, eps);
      std::fill(s + count * at.K, s + padded * at.K, T(0));
      multiply_rows(s, t.w_back, columns + j * at.J, padded, at.K, at.J);
    }
    const Axis across{a.W, a.columns, a.kernel[1], a.stride[1], a.padding[1]};
    for (std::int64_t i = std::max(begin, top); i < std::min(end, top + a.kernel[0]); ++i) {
      add_columns(columns + (i - top) * a.kernel[1] * a.channels(), at.J, a.channels(), across,
                  c_row(i, target));
    }
  }

  // R = sum over parts of u c of a row that has got all of c; leaves zeros for the next.
  void finish(std::int64_t i) const {
    for (std::int64_t target = 0; target < targets; ++target) {
      T* const c = c_row(i, target);
      for (std::int64_t k = 0; k < a.C; ++k) {
        multiply_inputs(t.u.data + n * t.u.n + k * t.u.c + i * t.u.i, t.u.j, a.C * t.u.c, c + k,
                        a.C, a.parts,
                        t.result.data + (first_target + target) * t.result.target + n * t.result.n +
                            k * t.result.c + i * t.result.i,
                        t.result.j, a.W);
      }
      std::fill(c, c + at.c_row, T(0));
    }
  }
};

}  // namespace

template <class T>
std::int64_t few_scratch(const FewShape& shape) {
  return Places<T>(shape).total;
}

template <class T>
void relprop_few(const FewTensors<T>& tensors, const FewShape& shape, double eps, T* scratch,
                 std::int64_t begin, std::int64_t end) {
  while (begin < end) {
    const std::int64_t n = begin / shape.H, i = begin % shape.H;
    const std::int64_t count = std::min(end - begin, shape.H - i);
    for (std::int64_t t = 0; t < shape.targets; t += kTargets) {
      Band<T>{tensors,   shape, static_cast<T>(eps),
              scratch,   n,     i,
              i + count, t,     std::min(kTargets, shape.targets - t)}
          .run();
    }
    begin += count;
  }
}

#define XAI_INSTANTIATE(T)                                                                      \
  template std::int64_t few_scratch<T>(const FewShape&);                                        \
  template void relprop_few<T>(const FewTensors<T>&, const FewShape&, double, T*, std::int64_t, \
                               std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
