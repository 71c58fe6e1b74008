#include "relevance/winograd_conv.h"

#include <algorithm>

#include "common/clones.h"
#include "relevance/panels.h"

// No vector leaves its function, whatever GCC notes about ABIs.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace xaifast {
namespace {

// v[4 i + j] = (B^T x B)_ij of one tile, a plane apart each; x: where its 4 x 4 inputs lie.
template <class T>
XAI_CLONES void tile_in(const T* const* x, T* v, std::int64_t plane, std::int64_t C) {
  for (std::int64_t c = 0; c < C; c += kLanes<T>) {
    Vec<T> t[4][4];  // B^T x
    for (int j = 0; j < 4; ++j) {
      const Vec<T> x0 = vec(x[j] + c), x1 = vec(x[4 + j] + c);
      const Vec<T> x2 = vec(x[8 + j] + c), x3 = vec(x[12 + j] + c);
      t[0][j] = x0 - x2;
      t[1][j] = x1 + x2;
      t[2][j] = x2 - x1;
      t[3][j] = x1 - x3;
    }
    for (int i = 0; i < 4; ++i) {
      T* const row = v + 4 * i * plane + c;
      vec(row) = t[i][0] - t[i][2];
      vec(row + plane) = t[i][1] + t[i][2];
      vec(row + 2 * plane) = t[i][2] - t[i][1];
      vec(row + 3 * plane) = t[i][1] - t[i][3];
    }
  }
}

// y[2 i + j] = (A^T m A)_ij + b of one tile, m[4 i + j] a plane apart each; y: where its 2 x 2
// outputs lie.
template <class T>
XAI_CLONES void tile_out(const T* m, std::int64_t plane, const T* b, bool relu, T* const* y,
                         std::int64_t K) {
  for (std::int64_t k = 0; k < K; k += kLanes<T>) {
    Vec<T> t[2][4];  // A^T m
    for (int j = 0; j < 4; ++j) {
      const Vec<T> m0 = vec(m + j * plane + k), m1 = vec(m + (4 + j) * plane + k);
      const Vec<T> m2 = vec(m + (8 + j) * plane + k), m3 = vec(m + (12 + j) * plane + k);
      t[0][j] = m0 + m1 + m2;
      t[1][j] = m1 - m2 - m3;
    }
    const Vec<T> bias = b == nullptr ? Vec<T>{} : vec(b + k);
    for (int i = 0; i < 2; ++i) {
      const Vec<T> pixels[2] = {t[i][0] + t[i][1] + t[i][2] + bias,
                                t[i][1] - t[i][2] - t[i][3] + bias};
      for (int j = 0; j < 2; ++j) {
        vec(y[2 * i + j] + k) = relu ? (pixels[j] < 0 ? Vec<T>{} : pixels[j]) : pixels[j];
      }
    }
  }
}

// From one of the 16 planes of a block to the next; the further line keeps them off one cache set.
template <class T>
std::int64_t plane(std::int64_t rows, std::int64_t width) {
  return rows * width + kLanes<T>;
}

template <class T>
void run_block(const T* x, const T* w, const T* b, bool relu, T* y, T* scratch,
               const WinogradShape& s, std::int64_t begin, std::int64_t count) {
  const std::int64_t rows = padded_rows(count);
  const std::int64_t v_plane = plane<T>(rows, s.C), m_plane = plane<T>(rows, s.K);
  T* const zeros = scratch;  // what lies around x, and then where nothing of y lies
  T* const v = zeros + std::max(s.C, s.K);
  T* const m = v + 16 * v_plane;
  const auto corner = [&](std::int64_t t, std::int64_t& n, std::int64_t& i, std::int64_t& j) {
    n = t / (s.rows() * s.columns());
    i = t / s.columns() % s.rows() * 2;
    j = t % s.columns() * 2;
  };
  const std::int64_t height = s.height(), width = s.width();
  std::fill(zeros, v, T(0));
  std::int64_t n, top, left;
  for (std::int64_t t = 0; t < count; ++t) {
    const T* pixels[16];
    corner(begin + t, n, top, left);
    for (int p = 0; p < 16; ++p) {
      const std::int64_t i = top + p / 4 - s.padding, j = left + p % 4 - s.padding;
      const bool inside = 0 <= i && i < height && 0 <= j && j < width;
      pixels[p] = inside ? x + ((n * height + i) * width + j) * s.C : zeros;
    }
    tile_in(pixels, v + t * s.C, v_plane, s.C);
  }
  for (int p = 0; p < 16; ++p) {
    T* const v_p = v + p * v_plane;
    std::fill(v_p + count * s.C, v_p + rows * s.C, T(0));
    multiply_rows(v_p, w + p * s.C * s.K, m + p * m_plane, rows, s.C, s.K);
  }
  for (std::int64_t t = 0; t < count; ++t) {
    T* pixels[4];
    corner(begin + t, n, top, left);
    for (int p = 0; p < 4; ++p) {
      const std::int64_t i = top + p / 2, j = left + p % 2;
      pixels[p] = i < s.H && j < s.W ? y + ((n * s.H + i) * s.W + j) * s.K : zeros;
    }
    tile_out(m + t * s.K, m_plane, b, relu, pixels, s.K);
  }
}

}  // namespace

template <class T>
std::int64_t winograd_scratch(WinogradShape s, std::int64_t block) {
  const std::int64_t rows = padded_rows(block);
  return std::max(s.C, s.K) + 16 * (plane<T>(rows, s.C) + plane<T>(rows, s.K));
}

template <class T>
void winograd(const T* x, const T* w, const T* b, bool relu, T* y, T* scratch, WinogradShape shape,
              std::int64_t block, std::int64_t begin, std::int64_t end) {
  for (std::int64_t t = begin; t < end; t += block) {
    run_block(x, w, b, relu, y, scratch, shape, t, std::min(block, end - t));
  }
}

#define XAI_INSTANTIATE(T)                                                             \
  template std::int64_t winograd_scratch<T>(WinogradShape, std::int64_t);              \
  template void winograd<T>(const T*, const T*, const T*, bool, T*, T*, WinogradShape, \
                            std::int64_t, std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
