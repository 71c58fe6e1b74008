// Philox4x32-10, a random number generator without a state: four random words are a function of a
// counter of four words and a key of two (Salmon, Moraes, Dror and Shaw 2011, Parallel random
// numbers: as easy as 1, 2, 3). Any thread makes any number at once, so that no result depends on
// who made it, or when.
#pragma once

#include <cstdint>

#include "common/stabilizer.h"

namespace xaifast {

// The counter, and at the end the result. A Lane is a 32-bit word, or a 64-bit one of which only
// the lower half counts: the products of words have 64 bits, and AVX-512 is twice as fast where
// nothing is narrowed in between.
template <class Lane>
struct Philox {
  Lane c0, c1, c2, c3;
};

// `kRounds` of the ten rounds are left, with (k0, k1) as the key of the first of them.
template <int kRounds = 10, class Lane>
XAI_HOST_DEVICE inline Philox<Lane> philox(Philox<Lane> x, std::uint32_t k0, std::uint32_t k1) {
  if constexpr (kRounds == 0) {
    return x;
  } else {
    const std::uint64_t a = std::uint64_t{0xd2511f53} * static_cast<std::uint32_t>(x.c0);
    const std::uint64_t b = std::uint64_t{0xcd9e8d57} * static_cast<std::uint32_t>(x.c2);
    const Philox<Lane> next{static_cast<Lane>(b >> 32) ^ x.c1 ^ k0, static_cast<Lane>(b),
                            static_cast<Lane>(a >> 32) ^ x.c3 ^ k1, static_cast<Lane>(a)};
    return philox<kRounds - 1>(next, k0 + 0x9e3779b9u, k1 + 0xbb67ae85u);
  }
}

}  // namespace xaifast
