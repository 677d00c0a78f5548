// A consumer warpgroup of Hopper's attention backward: 64 keys against tiles of 64 queries.
//
// All products are of transposed scores, so that Pᵀ and dSᵀ are A operands as they lie in
// registers:
//   Sᵀ = K Qᵀ   dPᵀ = V dOᵀ   dV += Pᵀ dO   dK += dSᵀ Q   and, over both groups' keys,  dQ = dS K
// where the group computes one half of dQ's columns from what both stored of dS. The products of a
// step are issued so that the scores of the next step and dQ of the one before run beside the
// ordinary arithmetic; dQ lags, so that a group never waits for the other's half of this step.
#pragma once

#include "kernels/cuda/device/add_global.cuh"
#include "kernels/cuda/device/exp2.cuh"
#include "kernels/cuda/device/mbarrier_ring.cuh"
#include "kernels/cuda/device/quad.cuh"
#include "kernels/cuda/device/signal.cuh"
#include "kernels/cuda/device/stmatrix.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/device/wgmma_backward.cuh"
#include "kernels/cuda/sm90_attention_backward.cuh"

namespace engine::cuda {

// Named barriers: kBackwardTurn + group is the group's turn to issue, kBackwardGroup + group its
// own.
inline constexpr int kBackwardTurn = 1, kBackwardGroup = 3;

// d = rows · otherᵀ over the head: rows are the group's 64 of K or V, other the tile of Q or dO,
// both descriptors.
template <typename T, typename Tile>
__device__ __forceinline__ void transposed_scores(float (&d)[Tile::kScoreRegisters],
                                                  std::uint64_t rows, std::uint64_t other) {
#pragma unroll
  for (std::uint32_t s = 0; s < Tile::kHead / 16; ++s) {
    wgmma_n64_ss<T>(d, wgmma_advance(rows, s / 4 * Tile::kKeyBlockBytes + s % 4 * 32),
                    wgmma_advance(other, s / 4 * Tile::kQueryBlockBytes + s % 4 * 32), s > 0);
  }
}

// d += a · tile: a is Pᵀ or dSᵀ, 64 keys × 64 queries, tile dO or Q.
template <typename T, typename Tile>
__device__ __forceinline__ void sum_product(float (&d)[Tile::kSumRegisters],
                                            const std::uint32_t (&a)[4][4], std::uint64_t tile) {
#pragma unroll
  for (std::uint32_t s = 0; s < 4; ++s) {
    if constexpr (Tile::kHead == 128) {
      wgmma_n128_rs<T>(d, a[s], wgmma_advance(tile, s * 2048));
    } else {
      wgmma_n64_rs<T>(d, a[s], wgmma_advance(tile, s * 2048));
    }
  }
}

// d = dS · K over all 128 keys; k: the group's half of the columns.
template <typename T, typename Tile>
__device__ __forceinline__ void query_product(float (&d)[Tile::kQueryRegisters],
                                              std::uint64_t gradient, std::uint64_t k) {
#pragma unroll
  for (std::uint32_t s = 0; s < Tile::kKeys / 16; ++s) {
    wgmma_ss_rows<T>(d, wgmma_advance(gradient, s / 4 * Tile::kQueryBlockBytes + s % 4 * 32),
                     wgmma_advance(k, s * 2048), s > 0);
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
  for (int s = 0; s < 4; ++s)
    stmatrix_x4_transposed(at + static_cast<std::uint32_t>(s) * 2048, a[s]);
}

// Adds the group's half of a tile of dQ to its sums; in order, once the tile of keys before has.
template <typename Tile>
__device__ __forceinline__ void add_queries(const Sm90BackwardArguments& a,
                                            const BackwardShared<Tile>& shared, std::int64_t unit,
                                            int group, int step,
                                            const float (&dq)[Tile::kQueryRegisters]) {
  if (a.deterministic) {
    mbarrier_wait(shared.turn + group, static_cast<std::uint32_t>(step) % 2);
  }
  float* to = a.dq + (unit + group) * (Tile::kQueryRegisters * 128) + threadIdx.x % 128 * 4;
#pragma unroll
  for (int i = 0; i < Tile::kQueryRegisters / 4; ++i) {
    add_global(to + i * 512, dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3]);
  }
  if (a.deterministic) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(shared.added + group);
  }
}

// One thread for each group keeps the order of the additions: it waits until the next tile of keys,
// which is first in order, has added to a tile of queries, lets the group add, and tells the tile
// of keys that follows.
template <typename Tile>
__device__ void order_additions(const Sm90BackwardArguments& a, const BackwardShared<Tile>& shared,
                                const BackwardItem& item, int group) {
  const BackwardMask mask{a.shape.rule, item.keys};
  BackwardPlace place(a, item);
  // The last tile of keys that adds to the tile of queries: as both ends of a tile's queries never
  // fall, all those up to it that begin no later do.
  int last = item.key_tile;
  for (int step = 0; step < item.steps; ++step) {
    if (place.tile == item.begin) last = item.key_tile;
    for (int key = (last + 1) * Tile::kKeys; key < item.keys; key += Tile::kKeys, ++last) {
      const int begin = mask.queries(key, Tile::kKeys, item.shift, item.count).begin;
      if (max(0, begin) / Tile::kQueries > place.tile) break;
    }
    std::uint32_t* counter = a.counters + place.unit + group;
    while (signal_read(counter) < static_cast<std::uint32_t>(last - item.key_tile)) {
    }
    mbarrier_arrive(shared.turn + group);
    mbarrier_wait(shared.added + group, static_cast<std::uint32_t>(step) % 2);
    signal_add(counter, 1);
    place.advance(a, item);
  }
}

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
      if (key < item.keys && column < a.shape.head_size) {
        store_vector(row + column, uint4{word[0], word[1], word[2], word[3]});
      }
    }
  }
}

// Zeros rows [first, rows) of a tile in shared memory: rows of a ragged batch past the end of a
// sequence are the next one's, and 0 · NaN is NaN. Each group does so for itself, ahead of
// wait_for_group, as the other may be steps away; both write the same zeros.
template <int kBlocks>
__device__ void zero_tail(std::uint8_t* tile, int first, int rows) {
  for (int i = static_cast<int>(threadIdx.x) % 128; i < kBlocks * (rows - first) * 8; i += 128) {
    const int row = first + i / 8 % (rows - first), block = i / 8 / (rows - first);
    store_vector(tile + (block * rows + row) * 128 + i % 8 * 16, uint4{});
  }
}

// What the group's threads stored in shared memory is there, for the tensor cores too.
__device__ inline void wait_for_group(int group) {
  fence_async_shared();
  named_barrier_sync(kBackwardGroup + group, 128);
}

}  // namespace engine::cuda
