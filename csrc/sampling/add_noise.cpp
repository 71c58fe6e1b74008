#include "sampling/add_noise.h"

#include <vector>

#include "common/clones.h"
#include "common/floats.h"
#include "sampling/normal.h"
#include "sampling/philox.h"

namespace xaifast {
namespace {

// Random words of `groups` groups of four, from the counter x on.
XAI_CLONES void make_words(Philox<std::uint32_t> x, std::uint32_t k0, std::uint32_t k1,
                           std::uint32_t* __restrict words, std::int64_t groups) {
#pragma omp simd
  for (std::int64_t i = 0; i < groups; ++i) {
    const std::uint32_t group = x.c0 + static_cast<std::uint32_t>(i);
    const auto w = philox(Philox<std::uint64_t>{group, x.c1, x.c2, x.c3}, k0, k1);
    words[4 * i] = static_cast<std::uint32_t>(w.c0);
    words[4 * i + 1] = static_cast<std::uint32_t>(w.c1);
    words[4 * i + 2] = static_cast<std::uint32_t>(w.c2);
    words[4 * i + 3] = static_cast<std::uint32_t>(w.c3);
  }
}

XAI_CLONES void make_normals(const std::uint32_t* __restrict words, float* __restrict z,
                             std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) z[i] = standard_normal(words[i]);
}

template <class T>
XAI_CLONES void add_scaled(const T* x, const float* z, T* out, std::int64_t n, Compute<T> std) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) out[i] = T(Compute<T>(x[i]) + std * Compute<T>(z[i]));
}

// One thread's normal numbers for a block of positions, in the order of memory.
class Normals {
 public:
  explicit Normals(const NoiseShape& shape)
      : shape_(shape),
        words_(noise_block(shape) + 8),  // whole groups of four, also at the borders
        normals_(words_.size()),
        block_(shape.channels == 1 ? 0 : noise_block(shape) * shape.channels) {}

  // Those of positions [s, s + n) and all channels.
  const float* make(std::int64_t sample, std::int64_t draw, std::int64_t s, std::int64_t n) {
    if (shape_.channels == 1) return make_elements(sample, draw, s, n);
    for (std::int64_t c = 0; c < shape_.channels; ++c) {
      const float* z = make_elements(sample, draw, c * shape_.space() + s, n);
      for (std::int64_t i = 0; i < n; ++i) block_[i * shape_.channels + c] = z[i];
    }
    return block_.data();
  }

 private:
  // Those of elements [e, e + n) of the sample.
  const float* make_elements(std::int64_t sample, std::int64_t draw, std::int64_t e,
                             std::int64_t n) {
    const std::int64_t groups = (e % 4 + n + 3) / 4;
    const Philox<std::uint32_t> counter{static_cast<std::uint32_t>(e / 4),
                                        static_cast<std::uint32_t>(draw),
                                        static_cast<std::uint32_t>(sample), 0};
    make_words(counter, shape_.key0(), shape_.key1(), words_.data(), groups);
    make_normals(words_.data(), normals_.data(), 4 * groups);
    return normals_.data() + e % 4;
  }

  NoiseShape shape_;
  std::vector<std::uint32_t> words_;
  std::vector<float> normals_;
  std::vector<float> block_;
};

}  // namespace

template <class T>
void add_noise(const T* x, const std::int64_t* sample, const std::int64_t* draw, const double* std,
               T* out, const NoiseShape& shape, std::int64_t begin, std::int64_t end) {
  const std::int64_t block = noise_block(shape);
  const std::int64_t blocks = (shape.space() + block - 1) / block;
  Normals normals(shape);
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t r = task / blocks;
    const std::int64_t s = task % blocks * block;
    const std::int64_t n = std::min(block, shape.space() - s);
    const T* xs = x + shape.batch.at(sample[r]) + s * shape.channels;
    T* outs = out + r * shape.batch.size + s * shape.channels;
    const auto scale = static_cast<Compute<T>>(std[sample[r]]);
    add_scaled(xs, normals.make(sample[r], draw[r], s, n), outs, n * shape.channels, scale);
  }
}

#define XAI_INSTANTIATE(T)                                                                      \
  template void add_noise<T>(const T*, const std::int64_t*, const std::int64_t*, const double*, \
                             T*, const NoiseShape&, std::int64_t, std::int64_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
XAI_INSTANTIATE(BFloat16)
XAI_INSTANTIATE(Float16)
#undef XAI_INSTANTIATE

}  // namespace xaifast
