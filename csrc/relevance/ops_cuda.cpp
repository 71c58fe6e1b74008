// The relevance kernels on CUDA tensors: pointers out of tensors, on the current stream of their
// device. Compiled by the host compiler; the kernels are in the .cu files.
#include <ATen/ops/matmul.h>
#include <torch/library.h>

#include "common/stream.h"
#include "relevance/kernels_cuda.h"
#include "relevance/ops.h"

namespace xaifast {
namespace {

struct Cuda {
  static void divide(const Divide& d, const at::Tensor& s, double eps) {
    run("stabilized_divide", d.z, [&]<class T>(cudaStream_t stream) {
      return stabilized_divide_cuda<T>(in<T>(d.R), in<T>(d.z), static_cast<const T*>(d.bias()),
                                       out<T>(s), d.shape, eps, stream);
    });
  }

  static void multiply(const Product& p) {
    run("multiply_parts", p.u, [&]<class T>(cudaStream_t stream) {
      return multiply_parts_cuda<T>(in<T>(p.u), in<T>(p.c), out<T>(p.R), p.shape, stream);
    });
  }

  static void split(const Split& s) {
    run("split_signs", s.a, [&]<class T>(cudaStream_t stream) {
      return split_signs_cuda<T>(in<T>(s.a), out<T>(s.u), s.shape.outer, s.shape.inner, stream);
    });
  }

  static void add_split(const Sum& s) {
    run("add_split", s.x, [&]<class T>(cudaStream_t stream) {
      return add_split_cuda<T>(in<T>(s.x), in<T>(s.y), in<T>(s.R), out<T>(s.Rx), out<T>(s.Ry),
                               s.shape, stream);
    });
  }

  static void pool(const Pool& p, double eps) {
    run("pool_redistribute", p.a, [&]<class T>(cudaStream_t stream) {
      return pool_redistribute_cuda<T>(in<T>(p.a), in<T>(p.R), out<T>(p.r), p.shape, p.rule, eps,
                                       stream);
    });
  }

  static at::Tensor backward_product(const at::Tensor& s, const at::Tensor& w) {
    return at::matmul(s, w);
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(xaifast, CUDA, m) { RelevanceOps<Cuda>::add_to(m); }

}  // namespace xaifast
