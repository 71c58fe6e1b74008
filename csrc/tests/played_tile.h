// Blocks of tile.h and pixels.h played in turns on the host: each step is taken by all threads one
// after the other. Copies to shared memory land only when they are waited for, as late as CUDA may
// let them, and a tensor core is the loop of common/ptx.h.
#pragma once

#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "zplus_conv/pixels.h"
#include "zplus_conv/tile.h"

namespace xaifast {

template <class Registers>
class PlayedBlock {
 public:
  explicit PlayedBlock(int threads) : registers_(static_cast<std::size_t>(threads)) {}

  template <class F>
  void each(const F& f) {
    for (std::size_t thread = 0; thread < registers_.size(); ++thread) {
      f(static_cast<int>(thread), registers_[thread]);
    }
  }
  void sync() {}

 protected:
  std::vector<Registers> registers_;
};

template <class K>
class PlayedTile : public PlayedBlock<TileRegisters<K>> {
  using T = typename K::T;

 public:
  PlayedTile() : PlayedBlock<TileRegisters<K>>(K::kThreads) { batches_.emplace_back(); }

  void copy(T* to, const T* from, bool there) {
    batches_.back().push_back([=] {
      if (there) {
        std::memcpy(static_cast<void*>(to), from, kPackBytes);
      } else {
        std::memset(static_cast<void*>(to), 0, kPackBytes);
      }
    });
  }
  void commit() { batches_.emplace_back(); }  // the last one is open
  void wait(std::size_t pending) {
    while (batches_.size() - 1 > pending) {
      for (const auto& land : batches_.front()) land();
      batches_.pop_front();
    }
  }

  void multiply(int u, int v, int q) {
    for (std::size_t warp = 0; warp < K::kThreads / 32; ++warp) {
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) multiply_warp(warp, i, j, u, v, q);
      }
    }
  }

 private:
  void multiply_warp(std::size_t warp, int i, int j, int u, int v, int q) {
    MmaLane brought[32];
    const MmaLane* lanes[32];
    for (std::size_t lane = 0; lane < 32; ++lane) {
      auto& r = this->registers_[warp * 32 + lane];
      MmaLane& x = brought[lane];
      for (int e = 0; e < 4; ++e) {
        x.c[e] = &r.sums[q][2 * i + e / 2][2 * j + e % 2];
        x.a[e] = r.a[u][i][e];
      }
      for (int e = 0; e < 2; ++e) x.b[e] = r.b[v][j][e];
      lanes[lane] = &x;
    }
    mma_m16n8_meaning<T>(lanes);
  }

  std::deque<std::vector<std::function<void()>>> batches_;
};

// All blocks of both products, one after the other.
template <class K>
void play_tiles(const ConvShape& p, const ConvTensors<typename K::T>& x, double eps) {
  const TileGrid grid = tiles_of<K>(p);
  const auto bounds = weight_bounds<typename K::T>(p.rule);
  const auto shared = std::make_unique<TileShared<K>>();
  for (std::int64_t other = 0; other < grid.others; ++other) {
    for (std::int64_t column = 0; column < grid.columns; ++column) {
      for (std::int64_t row = 0; row < grid.rows; ++row) {
        std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(*shared));  // all NaN
        PlayedTile<K> team;
        Tile<K, PlayedTile<K>> tile(team, *shared, p, x, bounds, chunks_align(p, x),
                                    place_of(row, column, other, classes_of(p, K::kBack)));
        tile.run(eps);
      }
    }
  }
}

// The same for both products of pixels.h.
template <class T>
void play_pixels(const ConvShape& p, const ConvTensors<T>& x, double eps) {
  using K = PixelTraits;
  const PixelGrid grid = pixel_grid(p);
  PixelWeights weights;
  for (std::int64_t i = 0; i < grid.outputs * grid.units; ++i) {
    PlayedBlock<PixelDivideRegisters> team(K::kThreads);
    const PixelBlock<T, decltype(team)> block{team, p, x, weights};
    block.divide(i % grid.outputs, i / grid.outputs * K::kUnits, eps);
  }
  for (std::int64_t i = 0; i < grid.images * grid.tiles[0] * grid.tiles[1]; ++i) {
    const auto tile1 = i % grid.tiles[1], row = i / grid.tiles[1], tile0 = row % grid.tiles[0];
    PlayedBlock<PixelMultiplyRegisters> team(K::kThreads);
    const PixelBlock<T, decltype(team)> block{team, p, x, weights};
    // As large as the launch says, so that a sanitizer sees what lies outside.
    std::vector<Pack<float, 4>> near(static_cast<std::size_t>(grid.near_bytes / kPackBytes));
    block.multiply(row / grid.tiles[0], tile0 * K::kTile[0], tile1 * K::kTile[1], near.front().v);
  }
}

}  // namespace xaifast
