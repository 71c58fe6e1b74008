// Both products of conv.h as implicit matrix products: a block computes a tile of kRows results
// times kColumns of their channels and never writes the matrix of patches (im2col) out. Sources and
// weights go through shared memory as they are, kStages chunks of kDepth channels of one tap in
// flight; they are clamped in registers, so that the two terms of a rule share every load. The
// epilogues divide and multiply while the sums are in registers.
//
// Plain C++ but for the Team, which is a thread block of CUDA (tile.cuh) or played in turns in
// the native tests:
//   each(f)            f(thread, registers) by every thread
//   copy(to, from, n)  16 bytes to shared memory, zeros if not n; seen after wait and sync
//   commit(), wait(n)  ends a batch of copies; waits for all batches but the last n
//   sync()             waits for the block; everyone sees what was written
//   multiply(u, v, q)  sums[q] += a[u] b[v] of the registers, by each warp on its tensor core
#pragma once

#include "zplus_conv/epilogue.h"
#include "zplus_conv/gather.h"
#include "zplus_conv/words.h"

namespace xaifast {

template <class T_, bool kTensorCores_, bool kBack_, int kTerms_>
struct TileTraits {
  using T = T_;
  static constexpr bool kTensorCores = kTensorCores_;
  static constexpr bool kBack = kBack_;
  static constexpr int kTerms = kTerms_;
  static constexpr int kInputs = kBack ? 1 : kTerms;  // terms of the sources
  static constexpr int kSums = kBack ? kTerms : 1;    // the first product adds its terms

  static constexpr int kThreads = 128;
  static constexpr int kRows = 128, kColumns = 64;
  static constexpr int kStages = 3;
  static constexpr int kChunk = kPackWidth<T>;         // numbers in 16 bytes
  static constexpr int kChunks = 4;                    // of a row of a stage
  static constexpr int kDepth = kChunks * kChunk;      // channels of a stage
  static constexpr int kPitch = kDepth + kChunk;       // rows start in different banks
  static constexpr int kRowStep = kThreads / kChunks;  // rows that are loaded at once
  static constexpr int kLoadRows = kRows / kRowStep, kLoadColumns = kColumns / kRowStep;
  static constexpr int kEach = 8;  // rows, and columns, of the results of a thread

  // Results of a thread: rows row(thread, i), and columns that lie in shared memory at
  // slot(thread, j). On tensor cores four warps have a quarter of the tile each, in tiles of 16 x
  // 8; else a thread's are spread. Which column lies in a slot is chosen so that a thread has
  // neighbours: column(slot(thread, j)) = column(slot(thread, 0)) + j.
  XAI_HOST_DEVICE static int row(int thread, int i) {
    if (!kTensorCores) return thread / 8 + 16 * i;
    return thread / 32 % 2 * 64 + i / 2 * 16 + i % 2 * 8 + thread % 32 / 4;
  }
  XAI_HOST_DEVICE static int slot(int thread, int j) {
    if (!kTensorCores) return thread % 8 + 8 * j;
    return thread / 64 * 32 + j / 2 * 8 + thread % 4 * 2 + j % 2;
  }
  XAI_HOST_DEVICE static int column(int slot) {
    if (!kTensorCores) return slot % 8 * 8 + slot / 8;
    return slot / 32 * 32 + slot % 8 / 2 * 8 + slot % 32 / 8 * 2 + slot % 2;
  }
};

template <class K>
struct TileShared {
  alignas(16) typename K::T source[K::kStages][K::kRows * K::kPitch];
  alignas(16) typename K::T weight[K::kStages][K::kColumns * K::kPitch];
};

// What a thread keeps: where it loads from, and its sums.
template <class K>
struct TileRegisters {
  const typename K::T* source[K::kLoadRows];     // of the image and the group
  int start[K::kLoadRows][2];                    // see GatherRow
  const typename K::T* weight[K::kLoadColumns];  // null: no such column
  int tap[2], depth;                             // of the next chunk
  Word a[K::kInputs][4][4], b[K::kTerms][4][2];  // fragments, on tensor cores
  float sums[K::kSums][K::kEach][K::kEach];
};

struct TilePlace {
  int rows, columns;  // number of the tile
  int group, residue;
};

template <class K, class Team>
class Tile {
  using T = typename K::T;
  using Registers = TileRegisters<K>;

 public:
  XAI_HOST_DEVICE Tile(Team& team, TileShared<K>& shared, const ConvShape& shape,
                       const ConvTensors<T>& x, const WeightBounds& bounds, bool aligned,
                       const TilePlace& place)
      : team_(team),
        shared_(shared),
        shape_(shape),
        x_(x),
        bounds_(bounds),
        aligned_(aligned),
        place_(place),
        g_(shape, K::kBack, place.residue) {}

  XAI_HOST_DEVICE void run(double eps) {
    if (place_.rows * K::kRows >= g_.rows) return;  // classes differ in size
    const int chunks = (g_.depth + K::kDepth - 1) / K::kDepth, steps = g_.taps * chunks;
    team_.each([&](int thread, Registers& r) { start(thread, r); });
    for (int s = 0; s < K::kStages - 1; ++s) load(s, s < steps);
    XAI_NO_UNROLL
    for (int s = 0, stage = 0; s < steps; ++s) {
      team_.wait(K::kStages - 2);
      team_.sync();
      load(stage == 0 ? K::kStages - 1 : stage - 1, s + K::kStages - 1 < steps);
      multiply(stage);
      stage = stage == K::kStages - 1 ? 0 : stage + 1;
    }
    if constexpr (K::kBack) {
      finish(multiply_epilogue<K::kTerms>(shape_, x_));
    } else {
      finish(divide_epilogue(shape_, x_, eps));
    }
  }

 private:
  XAI_HOST_DEVICE const std::int64_t (&result_size() const)[2] {
    return K::kBack ? shape_.in : shape_.out;
  }

  XAI_HOST_DEVICE void start(int thread, Registers& r) const {
    const int chunk = thread % K::kChunks * K::kChunk;
    const T* source = (K::kBack ? x_.s : x_.a) + place_.group * g_.depth + chunk;
    const T* weight = (K::kBack ? x_.w_t : x_.w) + chunk;
    const std::int64_t image = static_cast<std::int64_t>(g_.axis[0].size) * g_.axis[1].size;
    XAI_UNROLL(K::kLoadRows)
    for (int i = 0; i < K::kLoadRows; ++i) {
      const int row = place_.rows * K::kRows + thread / K::kChunks + i * K::kRowStep;
      const bool there = row < g_.rows;
      const GatherRow at(g_, result_size(), there ? row : 0);
      r.source[i] = source + at.image * image * g_.stride;
      r.start[i][0] = there ? at.start[0] : -(1 << 30);  // outside with every tap
      r.start[i][1] = at.start[1];
    }
    XAI_UNROLL(K::kLoadColumns)
    for (int i = 0; i < K::kLoadColumns; ++i) {
      const int n = place_.columns * K::kColumns + K::column(thread / K::kChunks + i * K::kRowStep);
      const std::int64_t row = static_cast<std::int64_t>(place_.group) * g_.columns + n;
      r.weight[i] = n < g_.columns ? weight + row * g_.all_taps * g_.depth : nullptr;
    }
    r.tap[0] = r.tap[1] = r.depth = 0;
    XAI_UNROLL(K::kSums)
    for (int q = 0; q < K::kSums; ++q) {
      XAI_UNROLL(K::kEach)
      for (int i = 0; i < K::kEach; ++i) {
        XAI_UNROLL(K::kEach)
        for (int j = 0; j < K::kEach; ++j) r.sums[q][i][j] = 0;
      }
    }
  }

  // The next chunk of all rows and columns; an empty batch of copies where there is none.
  XAI_HOST_DEVICE void load(int stage, bool more) {
    if (more) {
      team_.each([&](int thread, Registers& r) {
        const int chunk = thread % K::kChunks * K::kChunk, left = g_.depth - r.depth - chunk;
        const int to = thread / K::kChunks * K::kPitch + chunk;
        const int d0 = r.tap[0] * g_.axis[0].tap_offset, d1 = r.tap[1] * g_.axis[1].tap_offset;
        XAI_UNROLL(K::kLoadRows)
        for (int i = 0; i < K::kLoadRows; ++i) {
          const int p0 = r.start[i][0] + d0, p1 = r.start[i][1] + d1;
          const bool inside = p0 >= 0 && p0 < g_.axis[0].size && p1 >= 0 && p1 < g_.axis[1].size;
          const std::int64_t at =
              inside ? static_cast<std::int64_t>(p0 * g_.axis[1].size + p1) * g_.stride + r.depth
                     : 0;
          copy(shared_.source[stage] + to + i * K::kRowStep * K::kPitch, r.source[i] + at,
               inside ? left : 0);
        }
        const int number = r.tap[0] * g_.axis[1].taps + r.tap[1];
        const std::int64_t at =
            static_cast<std::int64_t>(g_.kernel_position(number, shape_)) * g_.depth + r.depth;
        XAI_UNROLL(K::kLoadColumns)
        for (int i = 0; i < K::kLoadColumns; ++i) {
          copy(shared_.weight[stage] + to + i * K::kRowStep * K::kPitch, r.weight[i] + at,
               r.weight[i] == nullptr ? 0 : left);
        }
        advance(r);
      });
    }
    team_.commit();
  }

  XAI_HOST_DEVICE void advance(Registers& r) const {
    r.depth += K::kDepth;
    if (r.depth < g_.depth) return;
    r.depth = 0;
    if (++r.tap[1] < g_.axis[1].taps) return;
    r.tap[1] = 0;
    ++r.tap[0];
  }

  // kChunk numbers, of which `count` or more are there; aligned ones are there as a whole or not.
  XAI_HOST_DEVICE void copy(T* to, const T* from, int count) {
    if (aligned_) return team_.copy(to, count > 0 ? from : x_.w, count > 0);
    XAI_NO_UNROLL
    for (int e = 0; e < K::kChunk; ++e) {
      T number = narrow<T>(0);
      if (e < count) number = from[e];
      to[e] = number;
    }
  }

  XAI_HOST_DEVICE void multiply(int stage) {
    const T* source = shared_.source[stage];
    const T* weight = shared_.weight[stage];
    if constexpr (K::kTensorCores) {
      XAI_UNROLL(2)
      for (int step = 0; step < 2; ++step) {  // of 8 words each
        team_.each([&](int thread, Registers& r) { fragments(thread, r, source, weight, step); });
        XAI_UNROLL(K::kTerms)
        for (int p = 0; p < K::kTerms; ++p) team_.multiply(K::kBack ? 0 : p, p, K::kBack ? p : 0);
      }
    } else {
      XAI_NO_UNROLL
      for (int k = 0; k < K::kDepth; k += kPlain) {
        team_.each([&](int thread, Registers& r) { multiply_plain(thread, r, source, weight, k); });
      }
    }
  }

  XAI_HOST_DEVICE static Word word(const T* row, int number) {
    Word x;
    memcpy(&x, row + number * kPerWord<T>, sizeof(x));
    return x;
  }

  XAI_HOST_DEVICE Word weight_word(int p, Word w) const {
    return operand<T>(at_most<T>(at_least<T>(w, bounds_.low[p]), bounds_.high[p]));
  }

  // Eight words of depth of the rows and columns of a warp, as mma.m16n8 wants them.
  XAI_HOST_DEVICE void fragments(int thread, Registers& r, const T* source, const T* weight,
                                 int step) const {
    const int first = step * 8 + thread % 4;
    XAI_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
      XAI_UNROLL(4)
      for (int e = 0; e < 4; ++e) {
        const T* row = source + K::row(thread, 2 * i + e % 2) * K::kPitch;
        const Word x = word(row, first + e / 2 * 4);
        if constexpr (K::kInputs == 1) {
          r.a[0][i][e] = operand<T>(x);
        } else {
          r.a[0][i][e] = operand<T>(at_least<T>(x, 0));
          r.a[1][i][e] = operand<T>(at_most<T>(x, 0));
        }
      }
    }
    const int slot = thread / 64 * 32 + thread % 32 / 4;
    XAI_UNROLL(4)
    for (int j = 0; j < 4; ++j) {
      XAI_UNROLL(2)
      for (int e = 0; e < 2; ++e) {
        const Word w = word(weight + (slot + 8 * j) * K::kPitch, first + e * 4);
        XAI_UNROLL(K::kTerms)
        for (int p = 0; p < K::kTerms; ++p) r.b[p][j][e] = weight_word(p, w);
      }
    }
  }

  // Without tensor cores, in float32: kPlain channels at a time.
  static constexpr int kPlain = 2;

  XAI_HOST_DEVICE void multiply_plain(int thread, Registers& r, const T* source, const T* weight,
                                      int k) const {
    Pack<T, kPlain> a[K::kEach], w[K::kEach];
    XAI_UNROLL(K::kEach)
    for (int i = 0; i < K::kEach; ++i) {
      a[i] = load_pack<kPlain>(source + K::row(thread, i) * K::kPitch + k);
      w[i] = load_pack<kPlain>(weight + K::slot(thread, i) * K::kPitch + k);
    }
    XAI_UNROLL(kPlain)
    for (int e = 0; e < kPlain; ++e) {
      XAI_UNROLL(K::kTerms)
      for (int p = 0; p < K::kTerms; ++p) {
        float u[K::kEach], v[K::kEach];
        XAI_UNROLL(K::kEach)
        for (int i = 0; i < K::kEach; ++i) {
          u[i] = K::kInputs == 1 ? a[i].v[e] : p == 0 ? positive(a[i].v[e]) : negative(a[i].v[e]);
          v[i] = weight_term(shape_.rule, p, w[i].v[e]);
        }
        XAI_UNROLL(K::kEach)
        for (int i = 0; i < K::kEach; ++i) {
          XAI_UNROLL(K::kEach)
          for (int j = 0; j < K::kEach; ++j) r.sums[K::kBack ? p : 0][i][j] += u[i] * v[j];
        }
      }
    }
  }

  template <class Epilogue>
  XAI_HOST_DEVICE void finish(const Epilogue& epilogue) {
    team_.each([&](int thread, Registers& r) {
      XAI_UNROLL(K::kEach)
      for (int i = 0; i < K::kEach; ++i) {
        const int row = place_.rows * K::kRows + K::row(thread, i);
        if (row >= g_.rows) continue;
        const GatherRow at(g_, result_size(), row);
        if (aligned_) {
          finish_row<kPackWidth<T>>(epilogue, at.position, thread, i, r);
        } else {
          finish_row<1>(epilogue, at.position, thread, i, r);
        }
      }
    });
  }

  // One row of a thread, W columns at a time; aligned columns are there as a pack or not.
  template <int W, class Epilogue>
  XAI_HOST_DEVICE void finish_row(const Epilogue& epilogue, std::int64_t position, int thread,
                                  int i, const Registers& r) const {
    const int first = place_.columns * K::kColumns + K::column(K::slot(thread, 0));
    XAI_UNROLL(K::kEach / W)
    for (int j = 0; j < K::kEach; j += W) {
      if (first + j >= g_.columns) continue;
      float sums[K::kSums][W];
      for (int q = 0; q < K::kSums; ++q) {
        for (int w = 0; w < W; ++w) sums[q][w] = r.sums[q][i][j + w];
      }
      epilogue(position, static_cast<std::int64_t>(place_.group) * g_.columns + first + j, sums);
    }
  }

  Team& team_;
  TileShared<K>& shared_;
  const ConvShape& shape_;
  const ConvTensors<T>& x_;
  const WeightBounds& bounds_;
  const bool aligned_;
  const TilePlace place_;
  const Gather g_;
};

// Whether all chunks, and all packs of results, start at 16 bytes and are whole.
template <class T>
bool chunks_align(const ConvShape& p, const ConvTensors<T>& x) {
  constexpr std::int64_t W = kPackWidth<T>;
  return p.channels % W == 0 && p.units % W == 0 &&
         start_packs(x.a, x.R, x.w, x.w_t, x.b, x.s, x.r);
}

struct TileGrid {
  std::int64_t rows, columns, others;  // tiles, and groups x classes
};

template <class K>
TileGrid tiles_of(const ConvShape& p) {
  const int classes = classes_of(p, K::kBack);
  const Gather largest(p, K::kBack, 0);  // the class of residue 0
  return {(largest.rows - 1) / K::kRows + 1, (largest.columns - 1) / K::kColumns + 1,
          p.groups * classes};
}

XAI_HOST_DEVICE inline TilePlace place_of(std::int64_t rows, std::int64_t columns,
                                          std::int64_t other, int classes) {
  return {static_cast<int>(rows), static_cast<int>(columns), static_cast<int>(other / classes),
          static_cast<int>(other % classes)};
}

}  // namespace xaifast
