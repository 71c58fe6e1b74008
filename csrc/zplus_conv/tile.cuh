// A thread block of CUDA as the team of tile.h, and the launch of both products.
#pragma once

#include <cuda_runtime.h>

#include "zplus_conv/kernels_cuda.h"
#include "zplus_conv/tile.h"

namespace xaifast {

template <class K>
struct CudaTeam {
  TileRegisters<K> r;

  template <class F>
  __device__ void each(const F& f) {
    f(static_cast<int>(threadIdx.x), r);
  }
  __device__ static void copy(void* to, const void* from, bool there) {
    copy_async_16(to, from, there);
  }
  __device__ static void commit() { copy_async_commit(); }
  __device__ static void wait(int) { copy_async_wait<K::kStages - 2>(); }
  __device__ static void sync() { __syncthreads(); }

  __device__ void multiply(int u, int v, int q) {
    XAI_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
      XAI_UNROLL(4)
      for (int j = 0; j < 4; ++j) {
        mma_m16n8<typename K::T>(r.sums[q][2 * i][2 * j], r.sums[q][2 * i][2 * j + 1],
                                 r.sums[q][2 * i + 1][2 * j], r.sums[q][2 * i + 1][2 * j + 1],
                                 r.a[u][i], r.b[v][j]);
      }
    }
  }
};

// Two blocks in a multiprocessor, so that one loads while the other multiplies.
template <class K>
__global__ void __launch_bounds__(K::kThreads, 2)
    run_tiles(const __grid_constant__ ConvShape shape,
              const __grid_constant__ ConvTensors<typename K::T> x,
              const __grid_constant__ WeightBounds bounds, double eps, bool aligned, int classes) {
  __shared__ TileShared<K> shared;
  CudaTeam<K> team;
  Tile<K, CudaTeam<K>> tile(team, shared, shape, x, bounds, aligned,
                            place_of(blockIdx.x, blockIdx.y, blockIdx.z, classes));
  tile.run(eps);
}

template <class K>
cudaError_t launch_tiles(const ConvShape& p, const ConvTensors<typename K::T>& x, double eps,
                         cudaStream_t stream) {
  const TileGrid grid = tiles_of<K>(p);
  const dim3 blocks(static_cast<unsigned>(grid.rows), static_cast<unsigned>(grid.columns),
                    static_cast<unsigned>(grid.others));
  run_tiles<K><<<blocks, K::kThreads, 0, stream>>>(p, x, weight_bounds<typename K::T>(p.rule), eps,
                                                   chunks_align(p, x), classes_of(p, K::kBack));
  return cudaGetLastError();
}

template <class T, bool kTensorCores, int kTerms>
cudaError_t launch_products(const ConvShape& p, const ConvTensors<T>& x, double eps,
                            cudaStream_t stream) {
  const auto error = launch_tiles<TileTraits<T, kTensorCores, false, kTerms>>(p, x, eps, stream);
  if (error != cudaSuccess) return error;
  return launch_tiles<TileTraits<T, kTensorCores, true, kTerms>>(p, x, eps, stream);
}

template <class T, bool kTensorCores>
cudaError_t launch_conv_tiles(const ConvShape& p, const ConvTensors<T>& x, double eps,
                              cudaStream_t stream) {
  if (p.empty()) return cudaSuccess;
  return p.terms() == 1 ? launch_products<T, kTensorCores, 1>(p, x, eps, stream)
                        : launch_products<T, kTensorCores, 2>(p, x, eps, stream);
}

}  // namespace xaifast
