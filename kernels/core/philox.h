// Counter-based random numbers: Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3" (SC 2011).
//
// A draw is a pure function of (seed, position, index): no state to keep, the same on every thread,
// eager or replayed, in this process or the next.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define ENGINE_HOST_DEVICE __host__ __device__
#else
#define ENGINE_HOST_DEVICE
#endif

namespace engine {

struct Philox4 {
  std::uint32_t word[4];
};

// Ten rounds over the 128-bit counter (c0, c1, c2, c3) under the 64-bit key.
ENGINE_HOST_DEVICE inline Philox4 philox4x32(Philox4 counter, std::uint64_t key) {
  constexpr std::uint64_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  auto key0 = static_cast<std::uint32_t>(key);
  auto key1 = static_cast<std::uint32_t>(key >> 32);
  Philox4 c = counter;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = kMultiplier0 * c.word[0];
    const std::uint64_t product1 = kMultiplier1 * c.word[2];
    c = {{static_cast<std::uint32_t>(product1 >> 32) ^ c.word[1] ^ key0,
          static_cast<std::uint32_t>(product1),
          static_cast<std::uint32_t>(product0 >> 32) ^ c.word[3] ^ key1,
          static_cast<std::uint32_t>(product0)}};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return c;
}

// The four draws that belong to tokens 4·block … 4·block + 3 of the vocabulary at `position`.
ENGINE_HOST_DEVICE inline Philox4 sampling_bits(std::uint64_t seed, std::uint32_t position,
                                                std::uint32_t block) {
  return philox4x32({{block, position, 0u, 0u}}, seed);
}

// 32 random bits as a uniform in (0, 1): the midpoints of 2^23 equal intervals, all exact in fp32,
// so that neither 0 nor 1 can come out and −log of it is positive and finite.
ENGINE_HOST_DEVICE inline float uniform_open(std::uint32_t bits) {
  return (static_cast<float>(bits >> 9) + 0.5f) * 0x1p-23f;
}

}  // namespace engine
