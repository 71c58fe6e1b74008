// The emulated device as a test sees it: buffers of a case, faults, what has run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace emulation {

enum class Use { kReads, kWrites, kUpdates };

// What a kernel may touch. A buffer that is written is poisoned with NaN patterns first, and nobody
// may read what was not written since. So that a buffer may be larger than memory: `fill`, if any,
// makes bytes that are asked for and that no kernel has written, and `look` sees those that were
// written when the case ends.
struct Buffer {
  void* begin;
  std::size_t bytes;
  Use use;
  std::function<void(std::size_t offset, std::size_t bytes)> fill, look;
};

struct Fault {
  std::string kind;  // "race", "bounds", "unwritten", "barrier", "warp", "launch", "read-only", ...
  std::string text;  // with the kernel, the thread, the line and the seed
};

// A case: launches between begin_case and end_case see these buffers only.
void begin_case(std::vector<Buffer> buffers);
std::vector<Fault> end_case();

// Draws of the order of blocks and threads; each case has its own, from this one.
void set_seed(std::uint64_t seed);
std::uint64_t seed();

// Of a grid with more blocks, only so many run: the first, the last, and some between. 0 is all.
void set_most_blocks(std::size_t blocks);

struct Totals {
  std::size_t kernels, instantiations, cases, blocks;
  std::vector<std::string> missed;  // kernels and instantiations that no case ran
};
Totals totals();

}  // namespace emulation
