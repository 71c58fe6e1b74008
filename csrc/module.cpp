// The Python module xaifast._C: loading it registers the ops; it tells how it was built.
#include <pybind11/pybind11.h>
#include <torch/version.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {

pybind11::dict build_info() {
  pybind11::dict info;
  info["torch"] = TORCH_VERSION;
#ifdef XAIFAST_WITH_CUDA
  info["cuda"] = XAIFAST_CUDA_VERSION;
  info["cuda_architectures"] = XAIFAST_CUDA_ARCHS;
#else
  info["cuda"] = pybind11::none();
  info["cuda_architectures"] = pybind11::none();
#endif
#ifdef __VERSION__
  info["compiler"] = __VERSION__;
#else
  info["compiler"] = "unknown";
#endif
  info["cxx_standard"] = static_cast<long>(__cplusplus);
#ifdef _OPENMP
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
  return info;
}

void give_back_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native ops of xaifast (registered with PyTorch as torch.ops.xaifast).";
  m.def("build_info", &build_info, "How this library was built, as a dict of plain values.");
  m.def("give_back_memory", &give_back_memory,
        "Return what the C library holds of freed memory, where it can.");
}
