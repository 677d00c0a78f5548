// Loads of shared memory by its 32-bit address, and the transposition of an 8 × 8 matrix of 16-bit
// elements over a warp.
#pragma once

#include <cstdint>

namespace engine::cuda {

__device__ inline std::uint32_t load_shared_16(std::uint32_t address) {
  std::uint16_t value;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(address) : "memory");
  return value;
}

__device__ inline std::uint32_t load_shared_32(std::uint32_t address) {
  std::uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}

// Lane (g, q) = (lane / 4, lane % 4) gives elements (g, 2q) and (g, 2q + 1) and gets (2q, g) and
// (2q + 1, g).
__device__ inline std::uint32_t transpose_8x8(std::uint32_t pair) {
  std::uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}

}  // namespace engine::cuda
