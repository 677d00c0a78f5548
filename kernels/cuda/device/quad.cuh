// Exchanges among the four lanes of a quad.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/reduce.cuh"

namespace engine::cuda {

// Transposes a 4 × 4 matrix of words over the lanes of a quad: word j of lane i becomes word i of
// lane j.
__device__ __forceinline__ void transpose_quad(std::uint32_t (&word)[4]) {
  const bool odd = threadIdx.x % 2 != 0, high = threadIdx.x / 2 % 2 != 0;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const std::uint32_t got = __shfl_xor_sync(kFullWarp, odd ? word[i] : word[i + 1], 1);
    (odd ? word[i] : word[i + 1]) = got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t got = __shfl_xor_sync(kFullWarp, high ? word[i] : word[i + 2], 2);
    (high ? word[i] : word[i + 2]) = got;
  }
}

}  // namespace engine::cuda
