// A block takes one sample (and target) through all steps: what one step hands to the next stays in
// shared memory, threads share the units, and no launch waits for another.
#include "recurrent/cell_element.h"
#include "recurrent/kernels_cuda.h"

namespace xaifast {
namespace {

constexpr int kMaxThreads = 256;

int threads_for(std::int64_t H) {
  const std::int64_t warps = (H + 31) / 32;
  return static_cast<int>(32 * warps < kMaxThreads ? 32 * warps : kMaxThreads);
}

// sum_k x[k] w[k, column], w [K, columns], x in shared memory.
template <class T>
__device__ T dot(const T* x, const T* w, std::int64_t K, std::int64_t columns,
                 std::int64_t column) {
  T sum = T(0);
#pragma unroll 4
  for (std::int64_t k = 0; k < K; ++k) sum += x[k] * w[k * columns + column];
  return sum;
}

// The steps of a sample, whatever its length says.
__device__ std::int64_t steps_of(const SequenceShape& p, std::int64_t n) {
  if (p.lengths == nullptr || p.lengths[n] > p.T) return p.T;
  return p.lengths[n];
}

template <class T>
__global__ void __launch_bounds__(kMaxThreads, 1)
    run_states(const T* a, const T* w_t, const T* b, T* z, T* h, T* c, const SequenceShape p) {
  extern __shared__ unsigned char memory[];
  T* state = reinterpret_cast<T*>(memory);  // h of this step [H]
  const std::int64_t H = p.H, blocks = p.lstm ? 4 : 3, width = blocks * H;
  for (std::int64_t n = blockIdx.x; n < p.N; n += gridDim.x) {
    for (std::int64_t j = threadIdx.x; j < H; j += blockDim.x) state[j] = h[n * H + j];
    __syncthreads();
    const std::int64_t steps = steps_of(p, n);
    for (std::int64_t t = 0; t < steps; ++t) {
      const std::int64_t now = t * p.N + n, next = (t + 1) * p.N + n;
      for (std::int64_t j = threadIdx.x; j < H; j += blockDim.x) {
        T q[4];
        for (std::int64_t k = 0; k < blocks; ++k) {
          q[k] = b[k * H + j] + dot(state, w_t, H, width, k * H + j);
        }
        T* zj = z + now * 4 * H + j;
        const T* aj = a + now * width + j;
        T h_next;
        if (p.lstm) {
          for (int k = 0; k < 4; ++k) zj[k * H] = q[k] = aj[k * H] + q[k];
          T c_next;
          lstm_unit(q[0], q[1], q[2], q[3], c[now * H + j], c_next, h_next);
          c[next * H + j] = c_next;
        } else {
          const T x[3] = {aj[0], aj[H], aj[2 * H]}, y[3] = {q[0], q[1], q[2]};
          T made[4];
          gru_unit(x, y, state[j], made, h_next);
          for (int k = 0; k < 4; ++k) zj[k * H] = made[k];
        }
        h[next * H + j] = h_next;
      }
      __syncthreads();  // all have read the state
      for (std::int64_t j = threadIdx.x; j < H; j += blockDim.x) state[j] = h[next * H + j];
      __syncthreads();
    }
  }
}

template <GateRule rule, class T>
__global__ void __launch_bounds__(kMaxThreads, 1)
    run_relprop(const T* z, const T* h, const T* c, const T* w, const T* b, const T* R, T* R_h,
                T* R_c, T* s, const SequenceShape p, T eps) {
  extern __shared__ unsigned char memory[];
  T* shares = reinterpret_cast<T*>(memory);  // s of the maps that h enters [width]
  constexpr bool kAll = rule == GateRule::kAll;
  const std::int64_t H = p.H, width = kAll ? H : (p.lstm ? 4 : 3) * H;
  for (std::int64_t row = blockIdx.x; row < p.targets * p.N; row += gridDim.x) {
    const std::int64_t target = row / p.N, n = row % p.N;
    T* R_h_row = R_h + row * H;
    for (std::int64_t t = steps_of(p, n) - 1; t >= 0; --t) {
      const std::int64_t now = t * p.N + n, next = (t + 1) * p.N + n;
      const std::int64_t here = (target * p.T + t) * p.N + n;
      for (std::int64_t j = threadIdx.x; j < H; j += blockDim.x) {
        T zj[4], d[4], share[4], direct = T(0);
        for (int k = 0; k < 4; ++k) {
          zj[k] = z[now * 4 * H + k * H + j];
          d[k] = zj[k] - b[k * H + j];
        }
        const T above = R_h_row[j] + R[here * H + j];
        if (p.lstm) {
          T R_state = R_c[row * H + j];
          lstm_unit_back<rule>(zj, d, c[now * H + j], c[next * H + j], above, R_state, eps, share);
          R_c[row * H + j] = R_state;
        } else {
          gru_unit_back<rule>(zj, d, h[now * H + j], h[next * H + j], above, direct, eps, share);
        }
        T* sj = s + here * width + j;
        if constexpr (kAll) {
          sj[0] = share[2];
          shares[j] = p.lstm ? share[2] : share[3];
        } else {
          const int count = p.lstm ? 4 : 3;
          for (int k = 0; k < count; ++k) {
            sj[k * H] = share[k];
            shares[k * H + j] = !p.lstm && k == 2 ? share[3] : share[k];
          }
        }
        R_h_row[j] = direct;  // the same thread adds the rest
      }
      __syncthreads();
      for (std::int64_t j = threadIdx.x; j < H; j += blockDim.x) {
        R_h_row[j] += h[now * H + j] * dot(shares, w, width, H, j);
      }
      __syncthreads();  // all have read the shares
    }
  }
}

// Blocks for the rows; a grid may not have more than 2^31 - 1, and a large one gains nothing.
unsigned blocks_for(std::int64_t rows) {
  return static_cast<unsigned>(rows < (1 << 20) ? rows : (1 << 20));
}

template <GateRule rule, class T>
cudaError_t launch_relprop(const T* z, const T* h, const T* c, const T* w, const T* b, const T* R,
                           T* R_h, T* R_c, T* s, SequenceShape p, double eps, cudaStream_t stream) {
  const std::int64_t width = rule == GateRule::kAll ? p.H : (p.lstm ? 4 : 3) * p.H;
  run_relprop<rule><<<blocks_for(p.targets * p.N), threads_for(p.H), width * sizeof(T), stream>>>(
      z, h, c, w, b, R, R_h, R_c, s, p, static_cast<T>(eps));
  return cudaGetLastError();
}

}  // namespace

template <class T>
cudaError_t recurrent_states_cuda(const T* a, const T* w_t, const T* b, T* z, T* h, T* c,
                                  SequenceShape shape, cudaStream_t stream) {
  if (shape.N * shape.H == 0) return cudaSuccess;
  run_states<<<blocks_for(shape.N), threads_for(shape.H), shape.H * sizeof(T), stream>>>(
      a, w_t, b, z, h, c, shape);
  return cudaGetLastError();
}

template <class T>
cudaError_t recurrent_relprop_cuda(const T* z, const T* h, const T* c, const T* w, const T* b,
                                   const T* R, T* R_h, T* R_c, T* s, SequenceShape shape,
                                   GateRule rule, double eps, cudaStream_t stream) {
  if (shape.targets * shape.N * shape.H == 0) return cudaSuccess;
  switch (rule) {
    case GateRule::kAll:
      return launch_relprop<GateRule::kAll>(z, h, c, w, b, R, R_h, R_c, s, shape, eps, stream);
    case GateRule::kProp:
      return launch_relprop<GateRule::kProp>(z, h, c, w, b, R, R_h, R_c, s, shape, eps, stream);
    case GateRule::kAbs:
      return launch_relprop<GateRule::kAbs>(z, h, c, w, b, R, R_h, R_c, s, shape, eps, stream);
    case GateRule::kHalf:
      return launch_relprop<GateRule::kHalf>(z, h, c, w, b, R, R_h, R_c, s, shape, eps, stream);
  }
  return cudaErrorInvalidValue;
}

#define XAI_INSTANTIATE(T)                                                                         \
  template cudaError_t recurrent_states_cuda<T>(const T*, const T*, const T*, T*, T*, T*,          \
                                                SequenceShape, cudaStream_t);                      \
  template cudaError_t recurrent_relprop_cuda<T>(const T*, const T*, const T*, const T*, const T*, \
                                                 const T*, T*, T*, T*, SequenceShape, GateRule,    \
                                                 double, cudaStream_t);
XAI_INSTANTIATE(float)
XAI_INSTANTIATE(double)
#undef XAI_INSTANTIATE

}  // namespace xaifast
