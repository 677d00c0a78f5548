// Warp-wide matrix products m16n8k32 of signed bytes with exact int32 sums (sm_80). With g = lane /
// 4 and q = lane % 4 a lane holds, four bytes to a register,
//   A (16 × 32, row-major):  a0 (g, 4q..)  a1 (g + 8, 4q..)  a2 (g, 4q + 16..)  a3 (g + 8, 4q
//   + 16..) B (32 × 8, column-major): b0 (k = 4q.., n = g)  b1 (k = 4q + 16.., n = g) C (16 × 8):
//   c0, c1 (g, 2q..)  c2, c3 (g + 8, 2q..)
#pragma once

#include <cstdint>

namespace engine::cuda {

// c += a · b.
__device__ inline void mma_16832(int (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                 std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace engine::cuda
