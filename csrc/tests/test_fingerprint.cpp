// hash_chunk, the CPU kernel, and hash_lane, the CUDA one, against the formula of fingerprint.h,
// word by word; and which changes of the memory they see.
#include <set>

#include "fingerprint/fingerprint.h"
#include "fingerprint/kernels_cuda.h"
#include "fingerprint/lane.h"
#include "tests/checks.h"

namespace xaifast {
namespace {

using Memory = std::vector<unsigned char>;

Memory random_bytes(int64_t n, unsigned seed) {
  Memory x(static_cast<std::size_t>(n));
  for (auto& xi : x) {
    seed = seed * 1664525u + 1013904223u;
    xi = static_cast<unsigned char>(seed >> 24);
  }
  return x;
}

std::uint64_t wanted(const unsigned char* x, int64_t n) {
  struct Lane {
    std::uint64_t h, s;
  };
  std::vector<Lane> lanes;
  for (int64_t i = 0; i * 8 < n; ++i) {
    if (i % (kHashChunk / 8) == 0) {
      for (int64_t lane = 0; lane < 64; ++lane) {
        lanes.push_back({(lanes.size() + 1) * kHashFactor, 0});
      }
    }
    std::uint64_t w = 0;
    for (int64_t b = 0; b < 8 && i * 8 + b < n; ++b) w += std::uint64_t{x[i * 8 + b]} << 8 * b;
    Lane& lane = lanes[static_cast<std::size_t>(i / (kHashChunk / 8) * 64 + i % 64)];
    lane = {hash_step(lane.h, w), lane.s + w};
  }
  std::uint64_t sum = 0;
  for (const Lane& lane : lanes) sum += hash_mix(hash_step(lane.h, lane.s));
  return sum;
}

std::uint64_t by_chunks(const Bytes& x) {
  std::uint64_t sum = 0;
  for (int64_t c = x.chunks(); c-- > 0;) sum += hash_chunk(x, c);  // in any order
  return sum;
}

std::uint64_t by_lanes(const Bytes& x) {
  std::uint64_t sum = 0;
  for (int64_t c = 0; c < x.chunks(); ++c) {
    for (int lane = kHashLanes; lane-- > 0;) sum += hash_lane(x, c, lane);
  }
  return sum;
}

void test_formula() {
  for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{8}, int64_t{9}, int64_t{511},
                          int64_t{512}, int64_t{513}, int64_t{1029}, kHashChunk - 1, kHashChunk,
                          kHashChunk + 1, 3 * kHashChunk + 515}) {
    for (const int64_t offset : {0, 1, 2, 4}) {
      const Memory x = random_bytes(n + offset, 5);
      const Bytes bytes{x.data() + offset, n};
      const auto name = std::to_string(n) + " bytes at " + std::to_string(offset);
      const std::uint64_t want = wanted(bytes.data, n);
      check(by_chunks(bytes) == want, "hash_chunk: " + name);
      check(by_lanes(bytes) == want, "hash_lane: " + name);
    }
  }
}

// More tensors than one launch takes, of which some are empty, on the emulated device.
void test_device() {
  if constexpr (kEmulated) {
    std::vector<Memory> memory;
    std::vector<Bytes> tensors;
    std::vector<std::uint64_t> hash, want;
    std::vector<emulation::Buffer> buffers;
    for (int64_t i = 0; i < 131; ++i) {
      const int64_t n = i == 1 ? 3 * kHashChunk + 515 : i == 2 ? kHashChunk : i * 7 % 40;
      memory.push_back(random_bytes(n, static_cast<unsigned>(i + 1)));
    }
    for (const Memory& x : memory) {
      tensors.push_back({x.data(), static_cast<int64_t>(x.size())});
      hash.push_back(tensors.size());
      want.push_back(tensors.size() + by_chunks(tensors.back()));
      buffers.push_back(reads(x));
    }
    buffers.push_back(updates(hash));
    on_device("fingerprint", buffers, [&] {
      return fingerprint_cuda(tensors.data(), static_cast<int64_t>(tensors.size()), hash.data(),
                              nullptr);
    });
    check(hash == want, "fingerprint on the device");
  }
}

// All changes give hashes that differ from each other and from what was there before.
void test_changes() {
  for (const bool same : {false, true}) {  // numbers of any kind, or equal ones
    Memory x = same ? Memory(kHashChunk + 1101, 0x3f) : random_bytes(kHashChunk + 1101, 7);
    const Bytes bytes{x.data(), static_cast<int64_t>(x.size())};
    std::set<std::uint64_t> seen{by_chunks(bytes)};
    std::size_t changes = 1;
    const auto flip = [&](int64_t bit) { x[bit / 8] ^= static_cast<unsigned char>(1 << bit % 8); };
    const auto note = [&] {
      seen.insert(by_chunks(bytes));
      ++changes;
    };
    for (int64_t bit = 0; bit < bytes.size * 8; bit += bit < 9000 ? 1 : 997) {
      flip(bit);
      note();
      flip(bit);
    }
    // Pairs of any two bits of two words that a lane takes one after the other, some lanes away,
    // chunks away, and in the same word.
    for (const int64_t apart : {int64_t{0}, int64_t{8}, kHashStripe, 2 * kHashStripe, kHashChunk}) {
      for (int64_t i = 0; i < 64; ++i) {
        for (int64_t j = apart == 0 ? i + 1 : 0; j < 64; ++j) {
          const int64_t first = 8 * 40 + i, second = 8 * (40 + apart) + j;
          flip(first);
          flip(second);
          note();
          flip(first);
          flip(second);
        }
      }
    }
    check(seen.size() == changes,
          "changes that are not seen: " + std::to_string(changes - seen.size()) + " of " +
              std::to_string(changes));
  }
}

}  // namespace
}  // namespace xaifast

int main() {
  using namespace xaifast;
  test_formula();
  test_changes();
  test_device();
  return report();
}
