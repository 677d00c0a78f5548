// Stores of matrix fragments to shared memory (sm_90).
#pragma once

#include <cstdint>

namespace engine::cuda {

// Four 8 × 8 matrices of 16-bit elements, each transposed: lane (g, q) = (lane / 4, lane % 4) gives
// elements (g, 2q) and (g, 2q + 1) of matrix m in r[m]; column l % 8 of matrix l / 8 becomes the 16
// bytes at lane l's address.
__device__ inline void stmatrix_x4_transposed(std::uint32_t shared_row,
                                              const std::uint32_t (&r)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_row),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
      : "memory");
}

}  // namespace engine::cuda
