// A consumer warpgroup of Hopper's attention backward: 64 keys against tiles of 64 queries.
//
// All products are of transposed scores, so that Pᵀ and dSᵀ are A operands as they lie in registers:
//   Sᵀ = K Qᵀ   dPᵀ = V dOᵀ   dV += Pᵀ dO   dK += dSᵀ Q   and, over both groups' keys,  dQ = dS K
// where the group computes one half of dQ's columns from what both stored of dS. The products of a
// step are issued so that the scores of the next step and dQ of the one before run beside the
// ordinary arithmetic; dQ lags, so that a group never waits for the other's half of this step.
#pragma once

#include "kernels/cuda/device/add_global.cuh"
#include "kernels/cuda/device/bulk.cuh"
#include "kernels/cuda/device/exp2.cuh"
#include "kernels/cuda/device/mbarrier_ring.cuh"
#include "kernels/cuda/device/quad.cuh"
#include "kernels/cuda/device/signal.cuh"
#include "kernels/cuda/device/stmatrix.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/device/wgmma_backward.cuh"
#include "kernels/cuda/sm90_attention_backward.cuh"

namespace engine::cuda {

// Named barriers: kBackwardGroup + group is the group's own, kBackwardBoth both groups'.
inline constexpr int kBackwardGroup = 1, kBackwardBoth = 3;

// d = rows · otherᵀ over the head: rows are the group's 64 of K or V, other the tile of Q or dO.
template <typename T, typename Tile>
__device__ __forceinline__ void transposed_scores(float (&d)[Tile::kScoreRegisters],
                                              std::uint32_t rows, std::uint32_t other) {
#pragma unroll
  for (int s = 0; s < Tile::kHead / 16; ++s) {
    const std::uint32_t column = static_cast<std::uint32_t>(s % 4) * 32;
    const auto block = static_cast<std::uint32_t>(s / 4);
    wgmma_n64_ss<T>(d, wgmma_descriptor(rows + block * Tile::kKeyBlockBytes + column, 16),
                    wgmma_descriptor(other + block * Tile::kQueryBlockBytes + column, 16), s > 0);
  }
}

// d += a · tile: a is Pᵀ or dSᵀ, 64 keys × 64 queries, tile dO or Q.
template <typename T, typename Tile>
__device__ __forceinline__ void sum_product(float (&d)[Tile::kSumRegisters],
                                            const std::uint32_t (&a)[4][4], std::uint32_t tile) {
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    const std::uint64_t rows =
        wgmma_descriptor(tile + static_cast<std::uint32_t>(s) * 2048, Tile::kQueryBlockBytes);
    if constexpr (Tile::kHead == 128) {
      wgmma_n128_rs<T>(d, a[s], rows);
    } else {
      wgmma_n64_rs<T>(d, a[s], rows);
    }
  }
}

// d = dS · K over all 128 keys, the group's half of the columns.
template <typename T, typename Tile>
__device__ __forceinline__ void query_product(float (&d)[Tile::kQueryRegisters],
                                              std::uint32_t gradient, std::uint32_t k, int group) {
  const auto half = static_cast<std::uint32_t>(group) *
                    (Tile::kHead == 128 ? static_cast<std::uint32_t>(Tile::kKeyBlockBytes) : 64u);
#pragma unroll
  for (int s = 0; s < Tile::kKeys / 16; ++s) {
    const auto block = static_cast<std::uint32_t>(s / 4);
    const std::uint32_t column = static_cast<std::uint32_t>(s % 4) * 32;
    wgmma_ss_rows<T>(
        d, wgmma_descriptor(gradient + block * Tile::kQueryBlockBytes + column, 16),
        wgmma_descriptor(k + half + static_cast<std::uint32_t>(s) * 2048, Tile::kKeyBlockBytes),
        s > 0);
  }
}

// Rounds a score fragment to the A fragments of 4 products of 16 queries each.
template <typename T>
__device__ __forceinline__ void pack_scores(const float (&score)[32], std::uint32_t (&a)[4][4]) {
#pragma unroll
  for (int s = 0; s < 4; ++s) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[s][i] = pack_pair<T>(score[8 * s + 2 * i], score[8 * s + 2 * i + 1]);
    }
  }
}

// Stores the group's dS as 64 queries × 64 keys, swizzled, transposing each 8 × 8.
__device__ __forceinline__ void store_gradient(std::uint32_t block,
                                               const std::uint32_t (&a)[4][4]) {
  const auto lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const std::uint32_t query = lane / 16 * 8 + lane % 8, chunk = warp * 2 + lane / 8 % 2;
  const std::uint32_t at = block + query * 128 + (chunk ^ lane % 8) * 16;
#pragma unroll
  for (int s = 0; s < 4; ++s) stmatrix_x4_transposed(at + static_cast<std::uint32_t>(s) * 2048, a[s]);
}

#ifdef DIAG_BULK
template <typename Tile>
struct QueryWriter {
  const Sm90BackwardArguments& a;
  const BackwardItem& item;
  int group;
  float* staging;
  std::uint32_t* written = nullptr;  // the counter of what was added last, not yet announced
  __device__ void announce() {
    if (threadIdx.x % 128 == 0) {
      bulk_wait();
      if (written != nullptr) {
      __threadfence();
      signal_add(written, 1);
      }
    }
    written = nullptr;
  }
  __device__ void add(const float (&dq)[Tile::kQueryRegisters], const BackwardPlace& place) {
    const std::int64_t unit =
        (place.head * a.shape.tiles + a.shape.first_tile(item.batch) + place.tile) * 2 + group;
    if (threadIdx.x % 128 == 0) { if (a.deterministic) announce(); else bulk_wait_read(); }
    named_barrier_sync(kBackwardGroup + group, 128);
    float4* to = reinterpret_cast<float4*>(staging) + threadIdx.x % 128;
#pragma unroll
    for (int i = 0; i < Tile::kQueryRegisters / 4; ++i) {
      to[i * 128] = float4{dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3]};
    }
    fence_async_shared();
    named_barrier_sync(kBackwardGroup + group, 128);
    if (threadIdx.x % 128 == 0) {
    if (a.deterministic) {
      written = a.counters + unit;
      const int seen = item.shift + place.tile * Tile::kQueries - a.shape.window + 1;
      const int first = a.shape.window > 0 ? max(0, seen) / Tile::kKeys : 0;
      const auto turn = static_cast<std::uint32_t>(item.key_tile - first);
        while (signal_read(written) < turn) {
        }
      }
    bulk_add_f32(a.dq + unit * (Tile::kQueryRegisters * 128), shared_address(staging), Tile::kQueryRegisters * 512);
    bulk_commit();
    }
  }
};
#else
// A group's turns at the sums of dQ: any order, or that of the tiles of keys.
template <typename Tile>
struct QueryWriter {
  const Sm90BackwardArguments& a;
  const BackwardItem& item;
  int group;
  std::uint32_t* written = nullptr;  // the counter of what was added last, not yet announced

  // The additions of this group are done: the next tile of keys may follow.
  __device__ void announce() {
    if (written == nullptr) return;
    __threadfence();
    named_barrier_sync(kBackwardGroup + group, 128);
    if (threadIdx.x % 128 == 0) signal_add(written, 1);
    written = nullptr;
  }

  __device__ void add(const float (&dq)[Tile::kQueryRegisters], const BackwardPlace& place) {
    const std::int64_t unit =
        (place.head * a.shape.tiles + a.shape.first_tile(item.batch) + place.tile) * 2 + group;
    if (a.deterministic) {
      announce();
      written = a.counters + unit;
      const int seen = item.shift + place.tile * Tile::kQueries - a.shape.window + 1;
      const int first = a.shape.window > 0 ? max(0, seen) / Tile::kKeys : 0;
      const auto turn = static_cast<std::uint32_t>(item.key_tile - first);
      if (threadIdx.x % 128 == 0) {
        while (signal_read(written) < turn) {
        }
      }
      named_barrier_sync(kBackwardGroup + group, 128);
    }
    float* to = a.dq + unit * (Tile::kQueryRegisters * 128) + threadIdx.x % 128 * 4;
#ifndef DIAG_NOADD
#pragma unroll
    for (int i = 0; i < Tile::kQueryRegisters / 4; ++i) {
      add_global(to + i * 512, dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3]);
    }
#endif
  }
};

#endif

// Rounds and writes the group's 64 rows of dK or dV, 16 bytes a lane.
template <typename T, typename Tile>
__device__ __forceinline__ void write_sums(const Sm90BackwardArguments& a, const BackwardItem& item,
                                           int group, void* data, const BackwardRows& rows,
                                           const float (&sum)[Tile::kSumRegisters], float scale) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int key = item.first_key + group * 64 + warp * 16 + lane / 4 + r * 8;
    T* row = static_cast<T*>(data) + item.batch * rows.batch +
             (a.shape.first_key(item.batch) + key) * rows.row + item.kv_head * rows.head;
#pragma unroll
    for (int d = 0; d < Tile::kHead / 32; ++d) {
      std::uint32_t word[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = sum + (4 * d + i) * 4 + 2 * r;
        word[i] = pack_pair<T>(pair[0] * scale, pair[1] * scale);
      }
      transpose_quad(word);
      const int column = d * 32 + lane % 4 * 8;
      if (key < item.mask.keys && column < a.shape.head_size) {
        store_vector(row + column, uint4{word[0], word[1], word[2], word[3]});
      }
    }
  }
}

// Zeros rows [first, rows) of a tile in shared memory, with both groups' threads: rows of a ragged
// batch past the end of a sequence are the next one's, and 0 · NaN is NaN.
template <int kBlocks>
__device__ void zero_tail(std::uint8_t* tile, int first, int rows) {
  for (int i = static_cast<int>(threadIdx.x) - 128; i < kBlocks * (rows - first) * 8; i += 256) {
    const int row = first + i / 8 % (rows - first), block = i / 8 / (rows - first);
    store_vector(tile + (block * rows + row) * 128 + i % 8 * 16, uint4{});
  }
}

}  // namespace engine::cuda
