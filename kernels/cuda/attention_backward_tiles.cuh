// The backward of attention on tensor cores (mma.sync): 16-bit types, fp32 sums.
//
// Formulas in attention_backward.h. Two passes of one kernel, each summing in a fixed order. A
// block of 4 warps owns 64 rows, a warp 16 of them, of two tensors: K and V in the pass for dK and
// dV (other rows: Q and dO of every head of the group), Q and dO in that for dQ (other rows: K and
// V). The other rows pass in tiles of 32 through two stages of shared memory filled by cp.async. A
// warp forms own1 · other1ᵀ (scores) and own2 · other2ᵀ (dP), turns them into P and dS where they
// lie, which makes them the A operands of the sums P · other2 (dV) and dS · other1 (dK or dQ).
// Tiles that no pair is seen in are skipped. Limit: tensor-core rate of mma.sync; 7 products for
// the 5 of one pass, for dQ without additions in any order.
#pragma once

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/device/cp_async.cuh"
#include "kernels/cuda/device/mma_rows.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"

namespace engine::cuda {

// kRow: the stride of a row in shared memory, 16 bytes more than its data, so that the 8 rows of an
// ldmatrix lie in different banks.
template <int kHeadSize>
struct BackwardMmaTile {
  static constexpr int kHead = kHeadSize, kOwn = 64, kOther = 32, kThreads = 128, kRow = kHead + 8;
  static constexpr std::size_t kSharedBytes =
      static_cast<std::size_t>(2 * kOwn + 4 * kOther) * kRow * 2;
};

template <typename T>
struct BackwardMmaArguments {
  BackwardShape shape;
  const T *own1, *own2, *other1, *other2;
  T *sum1, *sum2;  // dK and dV, or dQ
  BackwardRows own1_rows, own2_rows, other1_rows, other2_rows, sum1_rows, sum2_rows;
  const float *minus_lse, *minus_delta;  // (H, tiles, 64)
};

// Copies kRows rows from `first` of (count, size) into shared memory, zeros past the count.
template <typename T, typename Tile, int kRows>
__device__ void load_backward_rows(T* shared, const T* source, std::int64_t stride, int first,
                                   int count, int size) {
  constexpr int kVectors = Tile::kHead / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kVectors; i += Tile::kThreads) {
    const int r = i / kVectors, d = i % kVectors * 8;
    const bool valid = first + r < count && d < size;
    cp_async_16(shared + r * Tile::kRow + d, valid ? source + (first + r) * stride + d : source,
                valid);
  }
}

// c (16 × 32) = own · otherᵀ, own the warp's 16 rows.
template <typename T, typename Tile>
__device__ __forceinline__ void backward_scores(float (&c)[4][4], const T* own, const T* other) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) c[n][i] = 0.0f;
  }
#pragma unroll
  for (int s = 0; s < Tile::kHead / 16; ++s) {
    std::uint32_t a[4];
    ldmatrix_x4(a, own + lane % 16 * Tile::kRow + s * 16 + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
      std::uint32_t b[4];
      ldmatrix_x4(
          b, other + (n * 8 + lane / 16 * 8 + lane % 8) * Tile::kRow + s * 16 + lane / 8 % 2 * 8);
      mma_16816<T>(c[n], a, b[0], b[1]);
      mma_16816<T>(c[n + 1], a, b[2], b[3]);
    }
  }
}

// Rounds and writes the warp's 16 rows, the first of them row `first` of `count`.
template <typename T, typename Tile>
__device__ void write_backward_rows(T* to, std::int64_t stride, int first, int count, int size,
                                    const float (&sum)[Tile::kHead / 8][4], float scale) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first + lane / 4 + 8 * r;
#pragma unroll
    for (int d = 0; d < Tile::kHead / 8; ++d) {
      const int column = d * 8 + lane % 4 * 2;
      if (row < count && column < size) {
        *reinterpret_cast<std::uint32_t*>(to + row * stride + column) =
            pack_pair<T>(sum[d][2 * r] * scale, sum[d][2 * r + 1] * scale);
      }
    }
  }
}

// The work of a block: its rows, and the tiles of other rows [begin, end) of each head.
template <bool kKeyPass, typename Tile>
struct BackwardMmaItem {
  int batch, head, heads, first, own_count, other_count, begin, end, shift, keys;

  __device__ explicit BackwardMmaItem(const BackwardShape& s) {
    batch = static_cast<int>(blockIdx.z);
    const int index = static_cast<int>(blockIdx.y);
    head = kKeyPass ? index * s.group : index;  // the first query head
    heads = kKeyPass ? s.group : 1;
    first = static_cast<int>(blockIdx.x) * Tile::kOwn;
    const int queries = s.query_count(batch);
    keys = s.key_count(batch);
    own_count = kKeyPass ? keys : queries;
    other_count = kKeyPass ? queries : keys;
    shift = s.shift();
    KeyInterval others{0, 0};
    if (kKeyPass && first < keys) {
      others = BackwardMask{s.rule, keys}.queries(first, Tile::kOwn, shift, queries);
    } else if (!kKeyPass && first < queries) {
      const int last = min(first + Tile::kOwn, queries) - 1;
      others = {visible_keys(s.rule, first + shift, keys).begin,
                visible_keys(s.rule, last + shift, keys).end};
    }
    begin = max(0, others.begin) / Tile::kOther;
    end = (max(0, others.end) + Tile::kOther - 1) / Tile::kOther;
  }
};

// Turns scores into P and dP into dS. The lane's own rows are `own` and own + 8, its other rows
// `other`, the next, and those 8 n further; rows: the statistics of row 0 of the queries.
template <bool kKeyPass>
__device__ __forceinline__ void backward_gradients(float (&p)[4][4], float (&ds)[4][4],
                                                   const BackwardMask& mask, bool cut, int own,
                                                   int other, int shift, int queries,
                                                   const float* minus_lse, const float* minus_delta,
                                                   const BackwardScore& score) {
#pragma unroll
  for (int n = 0; n < 4; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = own + i / 2 * 8, column = other + n * 8 + i % 2;
      const int query = kKeyPass ? column : row, key = kKeyPass ? row : column;
      const bool seen = !cut || (query < queries && mask.sees(query + shift, key));
      const int at = min(query, queries - 1);
      float derivative;
      const float weight =
          score.probability(p[n][i], query + shift - key, minus_lse[at], &derivative);
      p[n][i] = seen ? weight : 0.0f;
      ds[n][i] = seen ? weight * derivative * (ds[n][i] + minus_delta[at]) : 0.0f;
    }
  }
}

template <typename T, typename Tile, bool kKeyPass>
__global__ void __launch_bounds__(Tile::kThreads)
    attention_backward_tiles_kernel(const BackwardMmaArguments<T> a) {
  constexpr int kRow = Tile::kRow, kOwn = Tile::kOwn, kOther = Tile::kOther;
  extern __shared__ uint4 shared[];
  T* own1 = reinterpret_cast<T*>(shared);  // (kOwn, kRow)
  T* own2 = own1 + kOwn * kRow;            // (kOwn, kRow)
  T* other1 = own2 + kOwn * kRow;          // (2, kOther, kRow)
  T* other2 = other1 + 2 * kOther * kRow;  // (2, kOther, kRow)
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  pdl_launch_dependents();
  pdl_wait();
  const BackwardMmaItem<kKeyPass, Tile> item(a.shape);
  if (item.first >= item.own_count) return;
  const int b = item.batch, kv_head = item.head / a.shape.group, size = a.shape.head_size;
  const int own_head = kKeyPass ? kv_head : item.head;
  const std::int64_t own_row = kKeyPass ? a.shape.first_key(b) : a.shape.first_query(b);
  const std::int64_t other_row = kKeyPass ? a.shape.first_query(b) : a.shape.first_key(b);
  const auto own_at = [&](auto* data, const BackwardRows& rows) {
    return data + b * rows.batch + own_row * rows.row + own_head * rows.head;
  };
  const int tiles = max(0, item.end - item.begin), steps = tiles * item.heads;
  const auto load_tile = [&](int step) {
    const int head = kKeyPass ? item.head + step / tiles : kv_head;
    const int first = (item.begin + step % tiles) * kOther, stage = step % 2 * kOther * kRow;
    load_backward_rows<T, Tile, kOther>(other1 + stage,
                                        a.other1 + b * a.other1_rows.batch +
                                            other_row * a.other1_rows.row +
                                            head * a.other1_rows.head,
                                        a.other1_rows.row, first, item.other_count, size);
    load_backward_rows<T, Tile, kOther>(other2 + stage,
                                        a.other2 + b * a.other2_rows.batch +
                                            other_row * a.other2_rows.row +
                                            head * a.other2_rows.head,
                                        a.other2_rows.row, first, item.other_count, size);
  };
  load_backward_rows<T, Tile, kOwn>(own1, own_at(a.own1, a.own1_rows), a.own1_rows.row, item.first,
                                    item.own_count, size);
  load_backward_rows<T, Tile, kOwn>(own2, own_at(a.own2, a.own2_rows), a.own2_rows.row, item.first,
                                    item.own_count, size);
  if (steps > 0) load_tile(0);
  cp_async_commit();

  float sum1[Tile::kHead / 8][4] = {}, sum2[kKeyPass ? Tile::kHead / 8 : 1][4] = {};
  const int queries = kKeyPass ? item.other_count : item.own_count;
  const BackwardMask mask{a.shape.rule, item.keys};
  const int own = item.first + warp * 16;
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<0>();
    __syncthreads();  // this tile is in, and every warp is done with the stage filled next
    if (step + 1 < steps) load_tile(step + 1);
    cp_async_commit();
    const int stage = step % 2 * kOther * kRow;
    float p[4][4], ds[4][4];
    backward_scores<T, Tile>(p, own1 + warp * 16 * kRow, other1 + stage);
    backward_scores<T, Tile>(ds, own2 + warp * 16 * kRow, other2 + stage);
    const int first = (item.begin + step % tiles) * kOther;
    const int query = kKeyPass ? first : own, key = kKeyPass ? own : first;
    const int query_tile = kKeyPass ? kOther : 16, key_tile = kKeyPass ? 16 : kOther;
    const bool cut =
        query + query_tile > queries || mask.cuts(query + item.shift, query_tile, key, key_tile);
    const int head = item.head + (kKeyPass ? step / tiles : 0);
    const std::int64_t rows = (head * a.shape.tiles + a.shape.first_tile(b)) * kBackwardQueryTile;
    backward_gradients<kKeyPass>(p, ds, mask, cut, own + lane / 4, first + lane % 4 * 2, item.shift,
                                 queries, a.minus_lse + rows, a.minus_delta + rows,
                                 BackwardScore(a.shape, head));
    if constexpr (kKeyPass) add_product<Tile::kRow>(sum2, p, other2 + stage);
    add_product<Tile::kRow>(sum1, ds, other1 + stage);
  }
  cp_async_wait<0>();
  write_backward_rows<T, Tile>(own_at(a.sum1, a.sum1_rows), a.sum1_rows.row, own, item.own_count,
                               size, sum1, a.shape.scale);
  if constexpr (kKeyPass) {
    write_backward_rows<T, Tile>(own_at(a.sum2, a.sum2_rows), a.sum2_rows.row, own, item.own_count,
                                 size, sum2, 1.0f);
  }
}

template <typename T, typename Tile>
void launch_backward_tiles(CudaContext& context, const AttentionBackwardCall& call,
                           const BackwardScratch& scratch) {
  const auto read = [](const AttentionRows& rows) { return static_cast<const T*>(rows.data); };
  const auto write = [](const AttentionRows& rows) { return static_cast<T*>(rows.data); };
  BackwardMmaArguments<T> a{};
  a.shape = backward_shape(call);
  a.minus_lse = scratch.minus_lse;
  a.minus_delta = scratch.minus_delta;
  const auto grid = [&](std::int64_t rows, std::int64_t heads) {
    return dim3(to_unsigned((rows + Tile::kOwn - 1) / Tile::kOwn), to_unsigned(heads),
                to_unsigned(call.batch));
  };
  const auto set = [&](const AttentionRows& own1, const AttentionRows& own2,
                       const AttentionRows& other1, const AttentionRows& other2,
                       const AttentionRows& sum1, const AttentionRows& sum2) {
    a.own1 = read(own1), a.own1_rows = backward_strides(own1);
    a.own2 = read(own2), a.own2_rows = backward_strides(own2);
    a.other1 = read(other1), a.other1_rows = backward_strides(other1);
    a.other2 = read(other2), a.other2_rows = backward_strides(other2);
    a.sum1 = write(sum1), a.sum1_rows = backward_strides(sum1);
    a.sum2 = write(sum2), a.sum2_rows = backward_strides(sum2);
  };
  if (call.keys > 0) {
    set(call.k, call.v, call.q, call.dout, call.dk, call.dv);
    launch(context, attention_backward_tiles_kernel<T, Tile, true>, grid(call.keys, call.kv_heads),
           Tile::kThreads, Tile::kSharedBytes, a);
  }
  if (call.queries > 0) {
    set(call.q, call.dout, call.k, call.v, call.dq, {});
    launch(context, attention_backward_tiles_kernel<T, Tile, false>, grid(call.queries, call.heads),
           Tile::kThreads, Tile::kSharedBytes, a);
  }
}

template <typename T>
void pick_backward_tiles(CudaContext& context, const AttentionBackwardCall& call,
                         const AttentionBackwardPlan& plan, const BackwardScratch& scratch) {
  if (plan.head_bucket == 64) {
    return launch_backward_tiles<T, BackwardMmaTile<64>>(context, call, scratch);
  }
  launch_backward_tiles<T, BackwardMmaTile<128>>(context, call, scratch);
}

}  // namespace engine::cuda
