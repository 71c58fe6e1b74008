#include "fingerprint/fingerprint.h"

#include <algorithm>

#include "common/clones.h"

namespace xaifast {
namespace {

// A cache line of words. The states of all lanes stay in registers from stripe to stripe, which
// compilers do not manage with arrays.
constexpr int kLines = kHashStripe / 64;
using Line = std::uint64_t __attribute__((vector_size(64)));

XAI_CLONES void take_stripes(const unsigned char* bytes, std::int64_t stripes, std::uint64_t* h,
                             std::uint64_t* s) {
  Line state[kLines], sum[kLines], w;
  std::memcpy(state, h, sizeof state);
  std::memcpy(sum, s, sizeof sum);
  for (std::int64_t i = 0; i < stripes; ++i) {
#pragma GCC unroll 8
    for (int line = 0; line < kLines; ++line, bytes += sizeof w) {
      std::memcpy(&w, bytes, sizeof w);
      sum[line] += w;
      hash_word(state[line], w);
    }
  }
  std::memcpy(h, state, sizeof state);
  std::memcpy(s, sum, sizeof sum);
}

// What does not fill a stripe: lanes behind its end take nothing.
void take_rest(const unsigned char* bytes, std::int64_t size, std::uint64_t* h, std::uint64_t* s) {
  for (int lane = 0; size > 0; ++lane, bytes += kHashWord, size -= kHashWord) {
    std::uint64_t w = 0;
    std::memcpy(&w, bytes, static_cast<std::size_t>(std::min(size, kHashWord)));
    s[lane] += w;
    h[lane] = hash_step(h[lane], w);
  }
}

XAI_CLONES std::uint64_t add_lanes(const std::uint64_t* __restrict h,
                                   const std::uint64_t* __restrict s) {
  std::uint64_t sum = 0;
  for (int lane = 0; lane < kHashLanes; ++lane) sum += hash_mix(hash_step(h[lane], s[lane]));
  return sum;
}

}  // namespace

std::uint64_t hash_chunk(const Bytes& bytes, std::int64_t chunk) {
  const unsigned char* begin = bytes.data + chunk * kHashChunk;
  const std::int64_t size = std::min(bytes.size - chunk * kHashChunk, kHashChunk);
  std::uint64_t h[kHashLanes], s[kHashLanes] = {};
  for (int lane = 0; lane < kHashLanes; ++lane) h[lane] = hash_start(chunk * kHashLanes + lane);
  const std::int64_t stripes = size / kHashStripe;
  take_stripes(begin, stripes, h, s);
  take_rest(begin + stripes * kHashStripe, size % kHashStripe, h, s);
  return add_lanes(h, s);
}

}  // namespace xaifast
