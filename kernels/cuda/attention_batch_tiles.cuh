// attention_batch on tensor cores by warp-wide products: flash attention, 16-bit types, fp32
// softmax, every score function.
//
//   out[b, i, h] = Σ_j softmax_j(y(scale · q[b, i, h] · k[b, j, g])) v[b, j, g]
// Layout: q and out (B, Q, H, Dh), k and v (B, K, G, Dh), strided with 16-byte rows, rows of
// sequences joined where the batch is ragged; heads smaller than the compiled size are zero-filled.
// Who computes what: a block of 4 warps has 64 queries of one head, a warp 16 of them, a quad of
// lanes a row; keys pass in tiles of kKeys through two stages of shared memory filled by cp.async.
// S = Q·Kᵀ stays in registers, is changed by the score function, becomes P there (online softmax,
// base 2), and is the A operand of P·V as it lies. Tiles that no query sees are skipped. Limit:
// tensor-core rate of mma.sync, or for heads of 16 and 32 that of exp2.
#pragma once

#include "kernels/cuda/attention_batch.cuh"
#include "kernels/cuda/device/cp_async.cuh"
#include "kernels/cuda/device/exp2.cuh"
#include "kernels/cuda/device/mma_rows.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/vec.cuh"

namespace engine::cuda {

// kRow: elements from row to row in shared memory, 16 bytes more than its data, so that the 8 rows
// of an ldmatrix lie in different banks.
template <int kHeadSize>
struct BatchTile {
  static constexpr int kHead = kHeadSize, kQueries = 64, kThreads = 128;
  static constexpr int kKeys = kHead > 128 ? 32 : kHead > 32 ? 64 : 128;
  static constexpr int kRow = kHead + 8, kScoreTiles = kKeys / 8, kSteps = kHead / 16;
  static constexpr bool kQInRegisters = kHead <= 128;
  static constexpr std::size_t kSharedBytes =
      static_cast<std::size_t>(kQueries + 4 * kKeys) * kRow * 2;
  static constexpr int kBlocks = kHead <= 32 ? 4 : 1;  // to a multiprocessor
};

// Copies rows [first, first + kRows) of (·, head_size) into shared memory, zeros outside `seen`.
template <typename T, typename Tile, int kRows>
__device__ __forceinline__ void load_batch_rows(T* shared, const T* source, std::int64_t stride,
                                                int first, KeyInterval seen, int head_size) {
  constexpr int kVectors = Tile::kHead / 8;
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kVectors; i += Tile::kThreads) {
    const int r = i / kVectors, d = i % kVectors * 8;
    const bool valid = first + r >= seen.begin && first + r < seen.end && d < head_size;
    cp_async_16(shared + r * Tile::kRow + d,
                valid ? source + static_cast<std::int64_t>(first + r) * stride + d : source, valid);
  }
}

// The lane's two rows of a warp's 16 queries: who they see, and the running softmax.
template <typename Tile>
struct BatchLane {
  KeyInterval seen[2];  // of rows r = 0, 1
  int low, high;        // keys [low, high) are seen by every row of the warp
  int position;         // of row 0; row 1 is 8 further
  float slope, factor;  // log2 weights are factor · score
  float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {};

  __device__ BatchLane(const AttentionBatchArguments& a, int warp_query, int keys, int head) {
    position = warp_query + static_cast<int>(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) seen[r] = a.seen(position + r * 8, keys);
    low = a.seen(warp_query + 15, keys).begin;
    high = a.seen(warp_query, keys).end;
    slope = a.slope(head);
    const bool changes = slope != 0.0f || !a.affine;
    factor = changes ? kLog2OfE : a.scale * kLog2OfE;
  }

  // The score function on the fragment of keys from `key`, the lane's first column.
  __device__ __forceinline__ void change(const AttentionBatchArguments& a,
                                         float (&score)[Tile::kScoreTiles][4], int key) const {
    if (slope != 0.0f) {
#pragma unroll
      for (int n = 0; n < Tile::kScoreTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float distance =
              static_cast<float>(position - key + i / 2 * 8) - static_cast<float>(n * 8 + i % 2);
          score[n][i] = fmaf(slope, distance, score[n][i] * a.scale);
        }
      }
    }
    if (a.affine) return;
    visit_score(a.rule.kind, [&](auto row) {
      if constexpr (!decltype(row)::kAffine) {
#pragma unroll
        for (int n = 0; n < Tile::kScoreTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            score[n][i] = decltype(row)::value(a.rule, score[n][i] * a.scale);
          }
        }
      }
    });
  }

  __device__ __forceinline__ void mask(float (&score)[Tile::kScoreTiles][4], int first_key,
                                       int key) const {
    if (first_key >= low && first_key + Tile::kKeys <= high) return;
#pragma unroll
    for (int n = 0; n < Tile::kScoreTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = key + n * 8 + i % 2;
        if (j < seen[i / 2].begin || j >= seen[i / 2].end) score[n][i] = -INFINITY;
      }
    }
  }

  // Turns scores into weights; `rescale` is what multiplies what was summed before.
  __device__ __forceinline__ void soften(float (&score)[Tile::kScoreTiles][4],
                                         float (&rescale)[2]) {
    float shift[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float greatest = maximum[r];
#pragma unroll
      for (int n = 0; n < Tile::kScoreTiles; ++n) {
        greatest = fmaxf(greatest, fmaxf(score[n][2 * r], score[n][2 * r + 1]));
      }
      greatest = warp_max<4>(greatest);
      // A row that has seen no key yet keeps −∞ and must not make −∞ − (−∞).
      shift[r] = greatest == -INFINITY ? 0.0f : greatest * factor;
      rescale[r] = exp2_approximate(maximum[r] * factor - shift[r]);
      maximum[r] = greatest;
      total[r] *= rescale[r];
    }
#pragma unroll
    for (int n = 0; n < Tile::kScoreTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        score[n][i] = exp2_approximate(fmaf(score[n][i], factor, -shift[i / 2]));
        total[i / 2] += score[n][i];
      }
    }
  }
};

// The lane's address of the A fragment (16 × 16) at row `row`, column `column`.
template <typename T, typename Tile>
__device__ __forceinline__ const T* batch_fragment(const T* tile, int row, int column) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return tile + (row + lane % 16) * Tile::kRow + column + lane / 16 * 8;
}

// score = Q · Kᵀ.
template <typename T, typename Tile>
__device__ __forceinline__ void batch_scores(float (&score)[Tile::kScoreTiles][4], const T* q,
                                             std::uint32_t (&fragment)[][4], const T* k) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int n = 0; n < Tile::kScoreTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) score[n][i] = 0.0f;
  }
#pragma unroll
  for (int s = 0; s < Tile::kSteps; ++s) {
    if constexpr (!Tile::kQInRegisters) {
      ldmatrix_x4(fragment[0], batch_fragment<T, Tile>(q, warp * 16, s * 16));
    }
#pragma unroll
    for (int n = 0; n < Tile::kScoreTiles; n += 2) {
      std::uint32_t b[4];
      ldmatrix_x4(b,
                  k + (n * 8 + lane / 16 * 8 + lane % 8) * Tile::kRow + s * 16 + lane / 8 % 2 * 8);
      mma_16816<T>(score[n], fragment[Tile::kQInRegisters ? s : 0], b[0], b[1]);
      mma_16816<T>(score[n + 1], fragment[Tile::kQInRegisters ? s : 0], b[2], b[3]);
    }
  }
}

template <typename T, typename Tile>
__device__ __forceinline__ void write_batch_rows(const AttentionBatchArguments& a,
                                                 const BatchSequence& s, int head, int first_row,
                                                 const float (&out)[Tile::kHead / 8][4],
                                                 const BatchLane<Tile>& lane_state) {
  const int lane = static_cast<int>(threadIdx.x) % 32, column = lane % 4 * 2;
  T* result = static_cast<T*>(a.out) + s.plane * a.out_stride.batch + head * a.out_stride.head;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = warp_sum<4>(lane_state.total[r]);
    const int row = first_row + lane / 4 + r * 8;
    if (row >= s.queries) continue;
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
    T* to = result + (s.first_query + row) * a.out_stride.row;
#pragma unroll
    for (int d = 0; d < Tile::kHead / 8; ++d) {
      if (d * 8 + column < a.head_size) {
        *reinterpret_cast<std::uint32_t*>(to + d * 8 + column) =
            pack_pair<T>(out[d][2 * r] * inverse, out[d][2 * r + 1] * inverse);
      }
    }
    if (a.lse != nullptr && column == 0) {
      a.lse[s.plane * a.lse_batch + head * a.lse_head + s.first_query + row] =
          sum > 0.0f ? (lane_state.maximum[r] * lane_state.factor + log2f(sum)) * kNaturalOf2 +
                           score_offset(a.rule, head)
                     : -INFINITY;
    }
  }
}

template <typename T, typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    attention_batch_tiles_kernel(const AttentionBatchArguments a) {
  extern __shared__ uint4 shared[];
  T* q_shared = reinterpret_cast<T*>(shared);             // (kQueries, kRow)
  T* k_shared = q_shared + Tile::kQueries * Tile::kRow;   // (2, kKeys, kRow)
  T* v_shared = k_shared + 2 * Tile::kKeys * Tile::kRow;  // (2, kKeys, kRow)
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int head = static_cast<int>(blockIdx.x) % a.heads;
  const int first_row = static_cast<int>(gridDim.y - 1 - blockIdx.y) * Tile::kQueries;

  pdl_launch_dependents();
  pdl_wait();
  const BatchSequence s = a.sequence(static_cast<int>(blockIdx.x) / a.heads);
  if (first_row >= s.queries) return;
  const int first_query = a.shift() + first_row;
  const int last_query = a.shift() + min(first_row + Tile::kQueries, s.queries) - 1;
  const KeyInterval block = a.block_keys(first_query, last_query, s.keys);
  const int first_tile = block.begin / Tile::kKeys;
  const int tiles = (max(block.end, 0) + Tile::kKeys - 1) / Tile::kKeys;
  const T* keys = static_cast<const T*>(a.k) + s.plane * a.k_stride.batch +
                  s.first_key * a.k_stride.row + head / a.group * a.k_stride.head;
  const T* values = static_cast<const T*>(a.v) + s.plane * a.v_stride.batch +
                    s.first_key * a.v_stride.row + head / a.group * a.v_stride.head;
  const auto load_tile = [&](int tile) {
    const int stage = tile % 2 * Tile::kKeys * Tile::kRow;
    load_batch_rows<T, Tile, Tile::kKeys>(k_shared + stage, keys, a.k_stride.row,
                                          tile * Tile::kKeys, block, a.head_size);
    load_batch_rows<T, Tile, Tile::kKeys>(v_shared + stage, values, a.v_stride.row,
                                          tile * Tile::kKeys, block, a.head_size);
  };
  load_batch_rows<T, Tile, Tile::kQueries>(q_shared,
                                           static_cast<const T*>(a.q) + s.plane * a.q_stride.batch +
                                               s.first_query * a.q_stride.row +
                                               head * a.q_stride.head,
                                           a.q_stride.row, first_row, {0, s.queries}, a.head_size);
  if (first_tile < tiles) load_tile(first_tile);
  cp_async_commit();

  BatchLane<Tile> lane(a, first_query + warp * 16, s.keys, head);
  float out[Tile::kHead / 8][4] = {};
  std::uint32_t q_fragment[Tile::kQInRegisters ? Tile::kSteps : 1][4];
  for (int tile = first_tile; tile < tiles; ++tile) {
    cp_async_wait<0>();
    __syncthreads();  // this tile is in, and every warp is done with the stage filled next
    if (tile + 1 < tiles) load_tile(tile + 1);
    cp_async_commit();
    if constexpr (Tile::kQInRegisters) {
      if (tile == first_tile) {
#pragma unroll
        for (int i = 0; i < Tile::kSteps; ++i) {
          ldmatrix_x4(q_fragment[i], batch_fragment<T, Tile>(q_shared, warp * 16, i * 16));
        }
      }
    }
    const int stage = tile % 2 * Tile::kKeys * Tile::kRow, first_key = tile * Tile::kKeys;
    const int key = first_key + static_cast<int>(threadIdx.x) % 4 * 2;
    float score[Tile::kScoreTiles][4], rescale[2];
    batch_scores<T, Tile>(score, q_shared, q_fragment, k_shared + stage);
    lane.change(a, score, key);
    lane.mask(score, first_key, key);
    lane.soften(score, rescale);
#pragma unroll
    for (int d = 0; d < Tile::kHead / 8; ++d) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[d][i] *= rescale[i / 2];
    }
    add_product<Tile::kRow>(out, score, v_shared + stage);  // out += P · V
  }
  cp_async_wait<0>();
  write_batch_rows<T, Tile>(a, s, head, first_row + warp * 16, out, lane);
}

template <typename T, int kHead>
void launch_batch_tiles(CudaContext& context, const AttentionBatchCall& call) {
  using Tile = BatchTile<kHead>;
  const AttentionBatchArguments a = batch_arguments(call);
  const dim3 grid(to_unsigned(call.sequences() * a.heads),
                  to_unsigned((call.queries() + Tile::kQueries - 1) / Tile::kQueries));
  launch(context, attention_batch_tiles_kernel<T, Tile>, grid, Tile::kThreads, Tile::kSharedBytes,
         a);
}

template <typename T>
void pick_batch_tiles(CudaContext& context, const AttentionBatchCall& call, int bucket) {
  switch (bucket) {
    case 16:
      return launch_batch_tiles<T, 16>(context, call);
    case 32:
      return launch_batch_tiles<T, 32>(context, call);
    case 64:
      return launch_batch_tiles<T, 64>(context, call);
    case 96:
      return launch_batch_tiles<T, 96>(context, call);
    case 128:
      return launch_batch_tiles<T, 128>(context, call);
    case 192:
      return launch_batch_tiles<T, 192>(context, call);
    default:
      return launch_batch_tiles<T, 256>(context, call);
  }
}

}  // namespace engine::cuda
