// The emulated device itself: that each kind of fault is reported where it was planted and nothing
// is reported where it was not, under several orders; and that what kernels may use works.
#include <algorithm>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "tests/checks.h"
#include "tests/cuda/faults.h"

namespace xaifast {
namespace {

struct Planted {
  const char* name;
  const char* kind;
};

constexpr Planted kPlanted[] = {
    {"missing_barrier", "race"},
    {"missing_warp_barrier", "race"},
    {"missing_second_barrier", "race"},
    {"two_writers", "race"},
    {"two_blocks", "race"},
    {"unwritten_shared", "unwritten"},
    {"unwritten_output", "unwritten"},
    {"read_behind", "bounds"},
    {"write_behind", "bounds"},
    {"behind_shared", "bounds"},
    {"write_input", "read-only"},
    {"barrier_in_branch", "barrier"},
    {"two_barriers", "barrier"},
    {"wrong_mask", "warp"},
    {"lane_outside_of_mask", "__shfl_xor_sync"},
    {"left_lanes", "warp"},
    {"copy_without_wait", "copy"},
    {"copy_without_barrier", "race"},
    {"copy_too_early", "race"},
    {"misaligned_pack", "misaligned"},
    {"index_overflow", "overflow"},
};

// Whether the report names a line that says "here: name" (two where either of two accesses may come
// second).
bool is_placed(const std::string& name, const std::string& report) {
  std::ifstream file(XAI_FAULTS_FILE);
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (!line.ends_with("here: " + name)) continue;
    if (report.find("faults.cu:" + std::to_string(number)) != report.npos) return true;
  }
  return false;
}

std::vector<emulation::Fault> run(const char* name, bool planted, cudaError_t& error) {
  constexpr int64_t n = 64;
  const auto x = numbers<float>(n, 1);
  auto y = poison<float>(n);
  emulation::begin_case({reads(x), writes(y)});
  error = run_fault(name, {planted, n, n, x.data(), y.data()});
  return emulation::end_case();
}

void test_planted(std::uint64_t seed) {
  emulation::set_seed(seed);
  for (const auto& [name, kind] : kPlanted) {
    cudaError_t error{};
    const std::string what = std::string(name) + " with seed " + std::to_string(seed);
    const auto none = run(name, false, error);
    check(none.empty() && error == cudaSuccess,
          what + ": reported without a fault: " + (none.empty() ? "" : none[0].text));
    const auto faults = run(name, true, error);
    check(faults.size() == 1 && error == cudaErrorLaunchFailure, what + ": not reported");
    if (faults.empty()) continue;
    check(faults[0].kind == kind, what + ": reported as " + faults[0].text);
    const std::string& text = faults[0].text;
    check(is_placed(name, text), what + ": reported elsewhere: " + text);
    check(text.find(name) != text.npos && text.find("seed") != text.npos,
          what + ": the report names no kernel or seed: " + text);
  }
}

void test_launches() {
  const auto error = [](dim3 grid, dim3 block, std::size_t shared) {
    emulation::begin_case({});
    const cudaError_t result = sized_cuda(grid, block, shared);
    const auto faults = emulation::end_case();
    return faults.empty() ? result : cudaErrorLaunchFailure;
  };
  check(error(1, 32, 128) == cudaSuccess, "a small launch");
  check(error(0, 32, 128) == cudaErrorInvalidConfiguration, "no blocks");
  check(error({1, 65536}, 32, 128) == cudaErrorInvalidConfiguration, "65536 blocks along y");
  check(error({1, 1, 65536}, 32, 128) == cudaErrorInvalidConfiguration, "65536 blocks along z");
  check(error(0x80000000u, 32, 128) == cudaErrorInvalidConfiguration, "2^31 blocks");
  check(error(1, 1025, 8192) == cudaErrorInvalidConfiguration, "1025 threads");
  check(error(1, {1, 1, 65}, 512) == cudaErrorInvalidConfiguration, "65 threads along z");
  check(error(1, 32, (48 << 10) + 1) == cudaErrorInvalidValue, "more than 48 KiB");
  check(error(1, 32, 48 << 10) == cudaErrorLaunchFailure, "48 KiB and a variable");
  check(error(1, 32, 44 << 10) == cudaSuccess, "48 KiB with a variable");
  check(error(1, 64, 128) == cudaErrorLaunchFailure, "less dynamic memory than is used");
  cudaError_t result{};
  const auto faults = run("many_threads", true, result);
  check(faults.size() == 1 && faults[0].kind == "launch", "more threads than __launch_bounds__");
}

void test_warps() {
  std::vector<int> x(64), y(64 * 8, -1);
  std::iota(x.begin(), x.end(), 0);
  on_device("shuffles", {reads(x), writes(y)}, [&] { return shuffles_cuda(x.data(), y.data()); });
  for (int t = 0; t < 64; ++t) {
    const int warp = t / 32 * 32, lane = t % 32;
    int ballot = 0;
    for (int i = 0; i < 32; ++i) ballot |= (warp + i) % 3 == 0 ? static_cast<int>(1u << i) : 0;
    const int want[8] = {
        warp + 3,   t / 8 * 8 + 1, lane < 2 ? t : t - 2,  t % 16 + 5 < 16 ? t + 5 : t, ballot,
        warp == 32, warp == 0,     t % 2 == 0 ? t ^ 2 : t};
    for (int i = 0; i < 8; ++i) {
      check(y[static_cast<std::size_t>(t * 8 + i)] == want[i],
            "shuffle " + std::to_string(i) + " of thread " + std::to_string(t));
    }
  }
}

void test_atomics() {
  std::vector<int> counts(5, 0);
  std::vector<float> sum(1, 1.0f);
  on_device("counters", {updates(counts), updates(sum)},
            [&] { return counters_cuda(counts.data(), sum.data(), 3); });
  check(counts == std::vector<int>{72, 72, 72, 72, 95} && sum[0] == 145.0f, "atomics");
}

std::vector<int> order_of(std::uint64_t seed) {
  std::vector<int> order(64, -1), next(1, 0);
  emulation::set_seed(seed - emulation::totals().cases);  // each case has a seed of its own
  on_device("order", {writes(order), updates(next)},
            [&] { return order_cuda(order.data(), next.data()); });
  return order;
}

void test_order() {
  const auto first = order_of(100), again = order_of(100), other = order_of(101);
  auto sorted = first;
  std::sort(sorted.begin(), sorted.end());
  std::vector<int> all(64);
  std::iota(all.begin(), all.end(), 0);
  check(sorted == all && first != all, "threads in an order of their own");
  check(first == again && first != other, "the order of a seed");
}

void test_places() {
  std::vector<unsigned> y(12 * 24, 0);
  on_device("places", {writes(y)}, [&] { return places_cuda(y.data()); });
  for (unsigned i = 0; i < y.size(); ++i) check(y[i] == i / 24 * 100 + i % 24, "a thread's place");
}

void test_memory() {
  constexpr std::size_t n = 64;
  const auto x = numbers<float>(n, 1);
  float *a = nullptr, *b = nullptr;
  check(cudaMalloc(&a, n * sizeof(float)) == cudaSuccess, "cudaMalloc");
  check(cudaMalloc(&b, n * sizeof(float)) == cudaSuccess, "cudaMalloc");
  cudaMemcpy(a, x.data(), n * sizeof(float), cudaMemcpyHostToDevice);
  emulation::begin_case({});
  const cudaError_t error = run_fault("two_writers", {false, n, n, a, b});
  check(emulation::end_case().empty() && error == cudaSuccess, "memory of cudaMalloc");
  std::vector<float> y(n);
  cudaMemcpy(y.data(), b, n * sizeof(float), cudaMemcpyDeviceToHost);
  check(y == x, "a copy through the device");
  emulation::begin_case({});
  run_fault("write_behind", {true, n, n, a, b});
  check(emulation::end_case().size() == 1, "the end of memory of cudaMalloc");
  check(cudaFree(a) == cudaSuccess && cudaFree(b) == cudaSuccess, "cudaFree");
  check(cudaFree(x.data() == nullptr ? nullptr : const_cast<float*>(x.data())) != cudaSuccess,
        "cudaFree of what is not the device's");
}

void test_properties() {
  const auto value = [](cudaDeviceAttr attribute) {
    int x = -1;
    check(cudaDeviceGetAttribute(&x, attribute, 0) == cudaSuccess, "an attribute");
    return x;
  };
  for (const auto& [architecture, processors, shared] :
       {std::array{80, 108, 163}, std::array{90, 132, 227}, std::array{100, 148, 227}}) {
    emulation::set_architecture(architecture);
    check(
        value(cudaDevAttrComputeCapabilityMajor) * 10 + value(cudaDevAttrComputeCapabilityMinor) ==
            architecture,
        "the architecture");
    check(value(cudaDevAttrMultiProcessorCount) == processors, "multiprocessors");
    check(value(cudaDevAttrMaxSharedMemoryPerBlockOptin) == shared << 10, "shared memory");
    check(emulation::allow_dynamic_shared(200 << 10) ==
              (architecture == 80 ? cudaErrorInvalidValue : cudaSuccess),
          "200 KiB of shared memory");
    check(emulation::resident_blocks(256, 0) == 8 && emulation::resident_blocks(32, 48 << 10) >= 3,
          "occupancy");
  }
  emulation::allow_dynamic_shared(0);
}

}  // namespace
}  // namespace xaifast

int main() {
  using namespace xaifast;
  for (const std::uint64_t seed : {1, 1000, 2000}) test_planted(seed);
  emulation::set_seed(1);
  test_launches();
  test_warps();
  test_atomics();
  test_order();
  test_places();
  test_memory();
  test_properties();
  // What no case runs is missed; launch_never has been compiled, which is enough.
  const auto missed = emulation::totals().missed;
  check(missed == std::vector<std::string>{"::never_run", "never_run of tests/cuda/faults.cu"},
        "kernels that no case runs");
  std::printf("%zu kinds of planted faults\n%d checks, %d failed\n", std::size(kPlanted), checks,
              failures);
  return failures == 0 ? 0 : 1;
}
