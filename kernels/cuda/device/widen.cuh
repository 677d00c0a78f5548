// Signed bytes as pairs of 16-bit floats.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace engine::cuda {

// The two low bytes as a pair of T, exactly.
template <typename T>
__device__ std::uint32_t widen(std::uint32_t bytes) {
  const std::uint32_t biased = bytes ^ 0x8080u;  // q + 128
  if constexpr (std::is_same_v<T, __half>) {
    // The halves 1024 + q + 128.
    const std::uint32_t raw = __byte_perm(biased, 0x64646464u, 0x4140u);
    const __half2 pair =
        __hsub2(*reinterpret_cast<const __half2*>(&raw), __floats2half2_rn(1152.0f, 1152.0f));
    return *reinterpret_cast<const std::uint32_t*>(&pair);
  } else {
    // The floats 2²³ + q + 128; what is left of them fits their upper halves.
    const float low = __uint_as_float(__byte_perm(biased, 0x4B000000u, 0x7650u)) - 8388736.0f;
    const float high = __uint_as_float(__byte_perm(biased, 0x4B000000u, 0x7651u)) - 8388736.0f;
    return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632u);
  }
}

}  // namespace engine::cuda
