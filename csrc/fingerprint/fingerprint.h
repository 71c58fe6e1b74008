// A hash of all bytes of memory, to notice that weights have changed where PyTorch counts nothing.
// The memory is cut into chunks, a chunk into words of 8 bytes, dealt out to 64 lanes in turn. A
// lane has a state h and a sum s; p counts the lanes of all chunks:
//   h = (p + 1) K,   s = 0
//   h = rotl(h ^ w, 29) K,   s = s + w      for each of its words w, mod 2^64
//   h = rotl(h ^ s, 29) K                   at its end
//   hash = sum over p of mix(h),   mix as at the end of MurmurHash3
//
// What is seen. A step is one to one in h and in w, and so is mix: where one word of a lane has
// changed, h differs for sure behind it. Pairs of changes cancel in an xor or a sum of words: two
// sign flips do in the one, x + d and y - d in the other. Here a change of bit i of one word
// changes h at bit i + 29 (mod 64) and, as K is odd and its bits are mixed, at about half of the
// bits above, so that the next word of the lane would have to change at just these bits to cancel
// it. Where bit i lands near the top there are few or none above; that the next word changes at so
// few bits s sees, as 2^i is no sum of other powers of 2. The place p is in the start of each lane,
// so that what moves from lane to lane is seen as well. All else goes unseen with a chance of about
// 2^-64. It is no hash against somebody who wants two weights to look equal: K is known.
//
// bytes [n] of any alignment; the last word is filled up with zeros: the caller knows n. Without
// bytes the hash is 0. The same on every device, in any order of chunks.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/stabilizer.h"

namespace xaifast {

inline constexpr std::int64_t kHashLanes = 64, kHashWord = 8;
inline constexpr std::int64_t kHashStripe = kHashLanes * kHashWord;  // a word for each lane
inline constexpr std::int64_t kHashChunk = 128 * kHashStripe;        // 64 KiB
inline constexpr std::uint64_t kHashFactor = 0x9e3779b97f4a7c15u;

struct Bytes {
  const unsigned char* data;
  std::int64_t size;

  XAI_HOST_DEVICE std::int64_t chunks() const { return (size + kHashChunk - 1) / kHashChunk; }
};

XAI_HOST_DEVICE inline std::uint64_t hash_start(std::int64_t p) {
  return static_cast<std::uint64_t>(p + 1) * kHashFactor;
}
template <class Word>  // a number, or a vector of them
XAI_HOST_DEVICE inline void hash_word(Word& h, const Word& w) {
  h ^= w;
  h = (h << 29 | h >> 35) * kHashFactor;
}
XAI_HOST_DEVICE inline std::uint64_t hash_step(std::uint64_t h, std::uint64_t w) {
  hash_word(h, w);
  return h;
}
XAI_HOST_DEVICE inline std::uint64_t hash_mix(std::uint64_t h) {
  h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
  h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53u;
  return h ^ h >> 33;
}

// The part of one chunk in the sum.
std::uint64_t hash_chunk(const Bytes& bytes, std::int64_t chunk);

}  // namespace xaifast
