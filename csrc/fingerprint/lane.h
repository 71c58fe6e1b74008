// One lane of one chunk of a fingerprint (formula: fingerprint.h), as a CUDA thread does it.
#pragma once

#include "common/pack.h"
#include "fingerprint/fingerprint.h"

namespace xaifast {

// Words of the widest kind that the memory is aligned to; all threads of a block agree on it.
template <class Part>
XAI_HOST_DEVICE inline std::uint64_t word_of(const unsigned char* p) {
  const auto* parts = reinterpret_cast<const Part*>(p);
  std::uint64_t w = 0;
  for (int i = 0; i < static_cast<int>(kHashWord / sizeof(Part)); ++i) {
    w |= std::uint64_t{parts[i]} << (8 * sizeof(Part) * i);
  }
  return w;
}

template <class Part>
XAI_HOST_DEVICE inline std::uint64_t hash_words(const unsigned char* p, const unsigned char* end,
                                                std::uint64_t h) {
  std::uint64_t s = 0;
  XAI_UNROLL(8)
  for (; p + kHashWord <= end; p += kHashStripe) {
    const std::uint64_t w = word_of<Part>(p);
    s += w;
    h = hash_step(h, w);
  }
  if (p < end) {  // fewer bytes than a word
    std::uint64_t w = 0;
    for (int i = 0; p + i < end; ++i) w |= std::uint64_t{p[i]} << (8 * i);
    s += w;
    h = hash_step(h, w);
  }
  return hash_mix(hash_step(h, s));
}

// Its part in the sum of the chunk.
XAI_HOST_DEVICE inline std::uint64_t hash_lane(const Bytes& bytes, std::int64_t chunk, int lane) {
  const std::int64_t first = chunk * kHashChunk, rest = bytes.size - first;
  const unsigned char* p = bytes.data + first + lane * kHashWord;
  const unsigned char* end = bytes.data + first + (rest < kHashChunk ? rest : kHashChunk);
  const std::uint64_t h = hash_start(chunk * kHashLanes + lane);
  const auto place = reinterpret_cast<std::uintptr_t>(bytes.data);
  if (place % 8 == 0) return hash_words<std::uint64_t>(p, end, h);
  if (place % 4 == 0) return hash_words<std::uint32_t>(p, end, h);
  return hash_words<unsigned char>(p, end, h);
}

}  // namespace xaifast
