// Counter-based random numbers: Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3" (SC 2011).
//
// A draw is a pure function of (seed, position, index): no state to keep, the same on every thread,
// eager or replayed, in this process or the next.
#pragma once

#include <cmath>
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

// Four uniforms of (0, 1): elements 4·block … 4·block + 3 of the sequence that (seed, stream)
// names.
struct Uniform4 {
  float value[4];
};
ENGINE_HOST_DEVICE inline Uniform4 uniform4(std::uint64_t seed, std::uint64_t stream,
                                            std::uint64_t block) {
  const Philox4 bits =
      philox4x32({{static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                   static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)}},
                 seed);
  Uniform4 uniform;
  for (int i = 0; i < 4; ++i) uniform.value[i] = uniform_open(bits.word[i]);
  return uniform;
}

// Four standard normals: elements 4·block … 4·block + 3 of the sequence that (seed, stream) names.
// Box, Muller, "A note on the generation of random normal deviates" (1958): for uniforms u, v
//   √(−2 ln u) · (cos 2πv, sin 2πv).
struct Normal4 {
  float value[4];
};
ENGINE_HOST_DEVICE inline Normal4 normal4(std::uint64_t seed, std::uint64_t stream,
                                          std::uint64_t block) {
  constexpr float kTwoPi = 6.28318530717958647692f;
  const Philox4 bits =
      philox4x32({{static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                   static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)}},
                 seed);
  Normal4 normal;
  for (int i = 0; i < 4; i += 2) {
    const float radius = sqrtf(-2.0f * logf(uniform_open(bits.word[i])));
    const float angle = kTwoPi * uniform_open(bits.word[i + 1]);
    normal.value[i] = radius * cosf(angle);
    normal.value[i + 1] = radius * sinf(angle);
  }
  return normal;
}

}  // namespace engine
