// A warp's product by rows that lie in shared memory (sm_80).
#pragma once

#include <cstdint>

#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/vec.cuh"

namespace engine::cuda {

// sum (16, 8 · kColumnTiles) += c (16, 8 · kTiles, rounded to T) · rows (8 · kTiles, columns),
// which lie kRow elements apart: the C fragments of two tiles are the A fragment of 16 rows.
template <int kRow, typename T, int kColumnTiles, int kTiles>
__device__ __forceinline__ void add_product(float (&sum)[kColumnTiles][4],
                                            const float (&c)[kTiles][4], const T* rows) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int s = 0; s < kTiles / 2; ++s) {
    const std::uint32_t a[4] = {pack_pair<T>(c[2 * s][0], c[2 * s][1]),
                                pack_pair<T>(c[2 * s][2], c[2 * s][3]),
                                pack_pair<T>(c[2 * s + 1][0], c[2 * s + 1][1]),
                                pack_pair<T>(c[2 * s + 1][2], c[2 * s + 1][3])};
#pragma unroll
    for (int d = 0; d < kColumnTiles; d += 2) {
      std::uint32_t b[4];
      ldmatrix_x4_transposed(
          b, rows + (s * 16 + lane / 8 % 2 * 8 + lane % 8) * kRow + d * 8 + lane / 16 * 8);
      mma_16816<T>(sum[d], a, b[0], b[1]);
      mma_16816<T>(sum[d + 1], a, b[2], b[3]);
    }
  }
}

}  // namespace engine::cuda
