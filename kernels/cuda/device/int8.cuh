// Signed bytes on the device: the same interface that vec.cuh gives the floating-point types.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/vec.cuh"

namespace engine::cuda {

__device__ inline float to_f32(std::int8_t x) { return static_cast<float>(x); }

// Exact: a byte q + 128 in the low bits of 2²³ is the float 2²³ + 128 + q, so that one permutation
// and one subtraction convert it.
template <>
struct Unpack<std::int8_t> {
  __device__ static void run(uint4 raw, float (&out)[16]) {
    constexpr std::uint32_t kTwoTo23 = 0x4B000000u, kSigns = 0x80808080u;
    const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (unsigned i = 0; i < 16; ++i) {
      // Byte i % 4 of the word, then bytes 1 to 3 of 2²³.
      const std::uint32_t bits = __byte_perm(words[i / 4] ^ kSigns, kTwoTo23, 0x7650u + i % 4);
      out[i] = __uint_as_float(bits) - 8388736.0f;
    }
  }
};

}  // namespace engine::cuda
