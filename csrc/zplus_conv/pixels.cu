#include <cuda_runtime.h>

#include "zplus_conv/kernels_cuda.h"
#include "zplus_conv/pixels.h"

namespace xaifast {
namespace {

constexpr int kResident = 8;  // blocks that shall fit into one multiprocessor: bounds the registers

template <class Registers>
struct PixelTeam {
  Registers r;

  template <class F>
  __device__ void each(const F& f) {
    f(static_cast<int>(threadIdx.x), r);
  }
  __device__ static void sync() { __syncthreads(); }
};

template <class T>
__global__ void __launch_bounds__(PixelTraits::kThreads, kResident)
    divide_pixels(const __grid_constant__ ConvShape p, const __grid_constant__ ConvTensors<T> x,
                  double eps) {
  __shared__ PixelWeights weights;
  PixelTeam<PixelDivideRegisters> team;
  const PixelBlock<T, decltype(team)> block{team, p, x, weights};
  block.divide(blockIdx.x, static_cast<std::int64_t>(blockIdx.y) * PixelTraits::kUnits, eps);
}

template <class T>
__global__ void __launch_bounds__(PixelTraits::kThreads, kResident)
    multiply_pixels(const __grid_constant__ ConvShape p, const __grid_constant__ ConvTensors<T> x,
                    int tiles0, int tiles1) {
  __shared__ PixelWeights weights;
  extern __shared__ float4 s_near[];  // so that it starts at 16 bytes
  PixelTeam<PixelMultiplyRegisters> team;
  const PixelBlock<T, decltype(team)> block{team, p, x, weights};
  const int tile1 = static_cast<int>(blockIdx.x) % tiles1;
  const int row = static_cast<int>(blockIdx.x) / tiles1, tile0 = row % tiles0;
  block.multiply(row / tiles0, std::int64_t{tile0} * PixelTraits::kTile[0],
                 std::int64_t{tile1} * PixelTraits::kTile[1], reinterpret_cast<float*>(s_near));
}

}  // namespace

template <class T>
cudaError_t conv_pixels_cuda(const ConvShape& p, const ConvTensors<T>& x, double eps,
                             cudaStream_t stream) {
  if (p.empty()) return cudaSuccess;
  const PixelGrid grid = pixel_grid(p);
  if (p.outputs() > 0) {  // else there is no s, and R is a sum of nothing
    const dim3 outputs(static_cast<unsigned>(grid.outputs), static_cast<unsigned>(grid.units));
    divide_pixels<T><<<outputs, PixelTraits::kThreads, 0, stream>>>(p, x, eps);
    const auto error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  const auto tiles = static_cast<unsigned>(grid.images * grid.tiles[0] * grid.tiles[1]);
  multiply_pixels<T>
      <<<tiles, PixelTraits::kThreads, static_cast<std::size_t>(grid.near_bytes), stream>>>(
          p, x, static_cast<int>(grid.tiles[0]), static_cast<int>(grid.tiles[1]));
  return cudaGetLastError();
}

#define XAI_INSTANTIATE(T)                                                                  \
  template cudaError_t conv_pixels_cuda<T>(const ConvShape&, const ConvTensors<T>&, double, \
                                           cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(__nv_bfloat16)
XAI_INSTANTIATE(__half)
#undef XAI_INSTANTIATE

}  // namespace xaifast
