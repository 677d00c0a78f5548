// The backward of attention on Hopper: flash attention's with warpgroup products and bulk copies.
//
// Formulas in attention_backward.h; q, dO (B, S, H, Dh), k, v (B, S, G, Dh), all strided with
// 16-byte rows, or the rows of a ragged batch; heads smaller than the compiled size are zero-filled
// by the copies. Who computes what: a block has 128 keys of one key/value head and goes over the
// heads of its group and, from the last, their tiles of 64 queries that see some of them. One
// thread of the first warpgroup copies Q, dO and their rows of statistics into a ring of shared
// memory; two further warpgroups have 64 keys each (sm90_attention_backward_consumer.cuh) with dK
// and dV in registers, which a group of query heads is thus summed into in a fixed order. dQ is
// added to fp32 sums in global memory: in any order, or, where asked for, tile of keys by tile of
// keys, each waiting for the one before; as all go down the queries in step, they wait for little
// but at the start. Limit: tensor-core rate (5 products), and reads of shared memory close behind
// it.
#pragma once

#include "kernels/cuda/device/bulk.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/tma_tensor.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sm90_attention_backward_consumer.cuh"
#include "kernels/cuda/tensor_map.h"

namespace engine::cuda {

struct BackwardMaps {
  CUtensorMap q, k, v, dout;
};

// The producer: one warp, all steps of the item; one of its lanes copies.
template <typename Tile>
__device__ void copy_steps(const Sm90BackwardArguments& a, const BackwardShared<Tile>& shared,
                           const BackwardItem& item, const BackwardMaps& maps) {
  const int query_batch = a.shape.query_offsets ? 0 : item.batch;
  const int key_batch = a.shape.key_offsets ? 0 : item.batch;
  const int first_key = a.shape.first_key(item.batch) + item.first_key;
  const int first_query = a.shape.first_query(item.batch);
  const auto copy_keys = [&](std::uint8_t* to, const CUtensorMap* map, std::uint64_t* full) {
    if (!elect_one()) return;
    mbarrier_arrive_expect(full, Tile::kKeyBytes);
    for (int b = 0; b < Tile::kBlocks; ++b) {
      tma_load_4d(to + b * Tile::kKeyBlockBytes, map, full, b * 64, first_key, item.kv_head,
                  key_batch);
    }
  };
  const auto copy_queries = [&](std::uint8_t* to, const CUtensorMap* map, std::uint64_t* full,
                                const BackwardPlace& place) {
    if (!elect_one()) return;
    const int first = place.tile * Tile::kQueries;
    mbarrier_arrive_expect(full, Tile::kQueryBytes);
    for (int b = 0; b < Tile::kBlocks; ++b) {
      tma_load_4d(to + b * Tile::kQueryBlockBytes, map, full, b * 64, first_query + first,
                  place.head, query_batch);
    }
  };
  const auto copy_rows = [&](int slot, const BackwardPlace& place) {
    if (!elect_one()) return;
    const std::int64_t tile =
        place.head * a.shape.tiles + a.shape.first_tile(item.batch) + place.tile;
    const std::uint32_t full = shared_address(shared.rows_full + slot);
    mbarrier_arrive_expect(full, 2 * Tile::kRowBytes);
    bulk_copy(shared_address(shared.minus_lse + slot * Tile::kQueries),
              a.minus_lse + tile * Tile::kQueries, Tile::kRowBytes, full);
    bulk_copy(shared_address(shared.minus_delta + slot * Tile::kQueries),
              a.minus_delta + tile * Tile::kQueries, Tile::kRowBytes, full);
  };
  RingPlace<Tile::kStages> ring;
  BackwardPlace place(a, item);
  copy_keys(shared.k, &maps.k, shared.k_full);
  for (int step = 0; step < item.steps; ++step) {
    mbarrier_wait(shared.empty + ring.slot, ring.parity ^ 1);
    copy_queries(shared.q + ring.slot * Tile::kQueryBytes, &maps.q, shared.q_full + ring.slot,
                 place);
    copy_rows(ring.slot, place);
    if (step == 0) copy_keys(shared.v, &maps.v, shared.v_full);
    copy_queries(shared.dout + ring.slot * Tile::kQueryBytes, &maps.dout,
                 shared.dout_full + ring.slot, place);
    __syncwarp();
    ring.advance();
    place.advance(a, item);
  }
}

// What a lane does to the scores of a tile: its keys are `key` and key + 8, its queries those at
// position `position` + 8 i and the next. score[4 i + 2 r + c]: query 8 i + c, key 8 r.
template <ScoreForm kForm>
struct BackwardScores {
  const BackwardShape& shape;
  int keys, key, position;
  bool cut;
  float slope_log2 = 0.0f;
  std::uint32_t seen = 0xffffffffu;  // element by element, where `cut`

  // By visible_keys of each query, its switch over the score functions outside of the loop.
  __device__ __forceinline__ void look() {
    seen = 0;
    visit_score(shape.rule.kind, [&](auto score_row) {
#pragma unroll 1
      for (int i = 0; i < 16; ++i) {
        const int query = position + i / 2 * 8 + i % 2;
        KeyInterval range{0, keys};
        if (shape.rule.causal) range.end = min(range.end, query + 1);
        if (shape.rule.window > 0) range.begin = max(range.begin, query - shape.rule.window + 1);
        decltype(score_row)::clip_keys(shape.rule, query, range);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const bool sees = key + 8 * r >= range.begin && key + 8 * r < range.end;
          seen |= static_cast<std::uint32_t>(sees) << (i / 2 * 4 + r * 2 + i % 2);
        }
      }
    });
  }
  __device__ __forceinline__ void hide(float (&score)[32]) const {
#pragma unroll
    for (int i = 0; i < 32; ++i) score[i] = (seen >> i & 1) != 0 ? score[i] : 0.0f;
  }

  // score = exp2(score · scale + bias − lse).
  __device__ __forceinline__ void weigh(float (&score)[32], const float* minus_lse) const {
    const auto* rows = reinterpret_cast<const float2*>(minus_lse) + threadIdx.x % 4;
    const float scale_log2 = shape.scale * 1.4426950408889634f;
    const auto distance = static_cast<float>(position - key);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 pair = rows[4 * i];
      float row[2] = {pair.x, pair.y};
      if constexpr (kForm == ScoreForm::kSlope) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          row[c] = fmaf(slope_log2, distance + static_cast<float>(8 * i + c), row[c]);
        }
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const float bias = kForm == ScoreForm::kSlope
                                 ? row[c] - 8.0f * slope_log2 * static_cast<float>(r)
                                 : row[c];
          float& x = score[4 * i + 2 * r + c];
          x = exp2_approximate(fmaf(x, scale_log2, bias));
        }
      }
    }
    if (cut) hide(score);
  }

  // The same with the soft-cap, the one row of the table that is not affine: P into the fragments,
  // P · derivative into score. tanh(x) = 1 − 2 ÷ (exp2(2 x ÷ ln 2) + 1), by the special function
  // unit, off by 2⁻²² at most.
  template <typename T>
  __device__ __forceinline__ void weigh_free(float (&score)[32], const float* minus_lse,
                                             std::uint32_t (&p)[4][4]) const {
    const float cap = shape.rule.cap, rate = shape.scale * 2.8853900817779268f / cap;
    const auto* rows = reinterpret_cast<const float2*>(minus_lse) + threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 pair = rows[4 * i];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float weight[2];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = score[4 * i + 2 * r + c];
          const float tanh = 1.0f - __fdividef(2.0f, exp2_approximate(x * rate) + 1.0f);
          weight[c] =
              exp2_approximate(fmaf(tanh, cap * 1.4426950408889634f, c == 0 ? pair.x : pair.y));
          if ((seen >> (4 * i + 2 * r + c) & 1) == 0) weight[c] = 0.0f;
          x = weight[c] * (1.0f - tanh * tanh);
        }
        p[i / 2][i % 2 * 2 + r] = pack_pair<T>(weight[0], weight[1]);
      }
    }
  }
};

// gradient = p · (gradient − δ).
__device__ __forceinline__ void gradients(float (&gradient)[32], const float (&p)[32],
                                          const float* minus_delta) {
  const auto* rows = reinterpret_cast<const float2*>(minus_delta) + threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 row = rows[4 * i];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      gradient[4 * i + 2 * r] = p[4 * i + 2 * r] * (gradient[4 * i + 2 * r] + row.x);
      gradient[4 * i + 2 * r + 1] = p[4 * i + 2 * r + 1] * (gradient[4 * i + 2 * r + 1] + row.y);
    }
  }
}

// A consumer warpgroup, all steps of the item.
template <typename T, typename Tile, ScoreForm kForm>
__device__ __forceinline__ void consume_steps(const Sm90BackwardArguments& a,
                                              const BackwardShared<Tile>& shared,
                                              const BackwardItem& item) {
  const int group = static_cast<int>(threadIdx.x) / 128 - 1;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group_key = item.first_key + group * 64;
  const int row = static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane / 4;
  // The groups take turns at issuing dQ, dK and the next scores, so that one's arithmetic falls
  // into the other's products. With heads of 64 that holds up more than it helps, unless dQ has an
  // order.
  const bool turns = Tile::kHead == 128 || a.deterministic;
  const auto arrive = [&](std::uint64_t* barrier) {
    __syncwarp();  // every lane has read, or written
    if (lane == 0) mbarrier_arrive(barrier);
  };
  float dk[Tile::kSumRegisters] = {}, dv[Tile::kSumRegisters] = {};
  if (item.steps > 0) {
    // Descriptors; those that are summed along a row ignore the distance of blocks.
    const std::uint32_t group_rows = static_cast<std::uint32_t>(group) * Tile::kQueryBlockBytes;
    const auto of = [](const void* tile, std::uint32_t offset) {
      return wgmma_descriptor(shared_address(tile) + offset, Tile::kQueryBlockBytes);
    };
    const std::uint64_t group_k = of(shared.k, group_rows), group_v = of(shared.v, group_rows);
    const std::uint64_t half_k = of(
        shared.k, static_cast<std::uint32_t>(group) *
                      (Tile::kHead == 128 ? static_cast<std::uint32_t>(Tile::kKeyBlockBytes) : 64));
    const std::uint64_t q_ring = of(shared.q, 0), dout_ring = of(shared.dout, 0);
    const std::uint64_t gradient_ring = of(shared.gradient, 0);
    RingPlace<Tile::kStages> ring;
    BackwardPlace place(a, item);
    std::int64_t last_unit = 0;
    // The tiles of queries that all of the group's keys are seen in.
    const KeyInterval whole = BackwardMask{a.shape.rule, item.keys}.whole(
        item.begin, item.end, Tile::kQueries, item.shift, group_key, 64);
    float slope_log2 = 0.0f;
    float score[32], dp[32], dq[Tile::kQueryRegisters];
    std::uint32_t p[4][4], ds[4][4];

    mbarrier_wait(shared.k_full, 0);
    mbarrier_wait(shared.v_full, 0);
    if (const int rows = item.keys - item.first_key;
        a.shape.key_offsets != nullptr && rows < Tile::kKeys) {
      zero_tail<Tile::kBlocks>(shared.k, rows, Tile::kKeys);
      zero_tail<Tile::kBlocks>(shared.v, rows, Tile::kKeys);
      wait_for_group(group);
    }
    if (turns && group == 1) named_barrier_sync(kBackwardTurn + 1, 256);

    for (int step = 0; step < item.steps; ++step) {
      const std::uint32_t stage = static_cast<std::uint32_t>(step) % 2;
      const std::uint32_t slot_bytes = static_cast<std::uint32_t>(ring.slot) * Tile::kQueryBytes;
      const std::uint64_t q = wgmma_advance(q_ring, slot_bytes);
      const std::uint64_t dout = wgmma_advance(dout_ring, slot_bytes);
      mbarrier_wait(shared.q_full + ring.slot, ring.parity);
      if (const int rows = item.count - place.tile * Tile::kQueries;
          a.shape.query_offsets != nullptr && rows < Tile::kQueries) {
        mbarrier_wait(shared.dout_full + ring.slot, ring.parity);
        zero_tail<Tile::kBlocks>(shared.q + slot_bytes, rows, Tile::kQueries);
        zero_tail<Tile::kBlocks>(shared.dout + slot_bytes, rows, Tile::kQueries);
        wait_for_group(group);
      }
      wgmma_fence();
      transposed_scores<T, Tile>(score, group_k, q);
      wgmma_commit();
      mbarrier_wait(shared.dout_full + ring.slot, ring.parity);
      wgmma_fence();
      transposed_scores<T, Tile>(dp, group_v, dout);
      wgmma_commit();
      if (turns) named_barrier_arrive(kBackwardTurn + 1 - group, 256);

      // P, and dV.
      const int position = item.shift + place.tile * Tile::kQueries;
      BackwardScores<kForm> scores{a.shape, item.keys, group_key + row, position + lane % 4 * 2,
                                   place.tile < whole.begin || place.tile >= whole.end};
      if constexpr (kForm == ScoreForm::kSlope) {
        if (place.tile == item.begin) {
          slope_log2 = score_slope(a.shape.rule, place.head) * 1.4426950408889634f;
        }
        scores.slope_log2 = slope_log2;
      }
      if (scores.cut) scores.look();
      wgmma_wait<1>();
      wgmma_hold(score);
      mbarrier_wait(shared.rows_full + ring.slot, ring.parity);
      const float* minus_lse = shared.minus_lse + ring.slot * Tile::kQueries;
      if constexpr (kForm == ScoreForm::kFree) {
        scores.template weigh_free<T>(score, minus_lse, p);
      } else {
        scores.weigh(score, minus_lse);
        pack_scores<T>(score, p);
      }
      wgmma_hold(dv);
      wgmma_fence();
      sum_product<T, Tile>(dv, p, dout);
      wgmma_commit();

      // dS, to shared memory.
      wgmma_wait<1>();
      wgmma_hold(dp);
      gradients(dp, score, shared.minus_delta + ring.slot * Tile::kQueries);
      if (scores.cut) scores.hide(dp);
      pack_scores<T>(dp, ds);
      mbarrier_wait(shared.gradient_empty + stage, static_cast<std::uint32_t>(step) / 2 % 2 ^ 1);
      store_gradient(shared_address(shared.gradient) + stage * Tile::kGradientBytes + group_rows,
                     ds);
      fence_async_shared();
      arrive(shared.gradient_full + stage);

      // dQ of the step before (in the first step a product of nothing, which nobody uses), and dK.
      if (turns) named_barrier_sync(kBackwardTurn + group, 256);
      if (step > 0) {
        mbarrier_wait(shared.gradient_full + (stage ^ 1),
                      (static_cast<std::uint32_t>(step) - 1) / 2 % 2);
      }
      wgmma_fence();
      query_product<T, Tile>(dq, wgmma_advance(gradient_ring, (stage ^ 1) * Tile::kGradientBytes),
                             half_k);
      wgmma_commit();
      wgmma_hold(dk);
      wgmma_fence();
      sum_product<T, Tile>(dk, ds, q);
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_hold(dq);
      if (step > 0) {
        arrive(shared.gradient_empty + (stage ^ 1));
        add_queries(a, shared, last_unit, group, step - 1, dq);
      }
      wgmma_wait<0>();
      wgmma_hold(dv);
      wgmma_hold(dk);
      mbarrier_arrive(shared.empty + ring.slot);  // every thread has read its −lse and −δ
      ring.advance();
      last_unit = place.unit;
      place.advance(a, item);
    }
    if (turns && group == 0) named_barrier_arrive(kBackwardTurn + 1, 256);
    const auto final_step = static_cast<std::uint32_t>(item.steps) - 1;
    mbarrier_wait(shared.gradient_full + final_step % 2, final_step / 2 % 2);
    wgmma_fence();
    query_product<T, Tile>(dq, wgmma_advance(gradient_ring, final_step % 2 * Tile::kGradientBytes),
                           half_k);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(dq);
    add_queries(a, shared, last_unit, group, item.steps - 1, dq);
  }
  write_sums<T, Tile>(a, item, group, a.dv, a.dv_rows, dv, 1.0f);
  write_sums<T, Tile>(a, item, group, a.dk, a.dk_rows, dk, a.shape.scale);
}

template <typename T, typename Tile, ScoreForm kForm>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    sm90_attention_backward_kernel(const Sm90BackwardArguments a,
                                   const __grid_constant__ BackwardMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ std::uint8_t raw[];
  const BackwardShared<Tile> shared(raw);
  pdl_launch_dependents();
  pdl_wait();
  if (threadIdx.x == 0) {
    mbarrier_init(shared.k_full, 1);
    mbarrier_init(shared.v_full, 1);
    for (int s = 0; s < Tile::kStages; ++s) {
      mbarrier_init(shared.q_full + s, 1);
      mbarrier_init(shared.dout_full + s, 1);
      mbarrier_init(shared.rows_full + s, 1);
      mbarrier_init(shared.empty + s, Tile::kGroups * 128);
    }
    for (int s = 0; s < Tile::kGroups; ++s) {
      mbarrier_init(shared.turn + s, 1);
      mbarrier_init(shared.added + s, 4);
    }
    for (int s = 0; s < Tile::kGradientStages; ++s) {
      mbarrier_init(shared.gradient_full + s, Tile::kGroups * 4);
      mbarrier_init(shared.gradient_empty + s, Tile::kGroups * 4);
    }
    fence_mbarrier_init();
    // Blocks take their items in the order in which they run: a tile of keys that waits for the one
    // before waits for a block that runs.
    *shared.item = static_cast<int>(blockIdx.x);
    if (a.deterministic) {
      *shared.item =
          static_cast<int>(signal_exchange_add(a.counters + 2 * a.shape.heads * a.shape.tiles, 1));
    }
  }
  __syncthreads();  // the barriers are initialised, the item is known
  const BackwardItem item = BackwardItem::make<Tile>(a, *shared.item);
  // 64 K registers: what the producer gives back, the consumers take.
  if (threadIdx.x < 128) {
    give_registers_back<24>();
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (warp == 0) copy_steps<Tile>(a, shared, item, maps);
    if (a.deterministic && (warp == 1 || warp == 2) && threadIdx.x % 32 == 0) {
      order_additions<Tile>(a, shared, item, warp - 1);
    }
  } else {
    take_registers<240>();
    consume_steps<T, Tile, kForm>(a, shared, item);
  }
#endif
}

template <typename T, typename Tile, ScoreForm kForm>
void launch_sm90_backward(CudaContext& context, const AttentionBackwardCall& call,
                          const BackwardScratch& scratch) {
  Sm90BackwardArguments a{};
  a.shape = backward_shape(call);
  a.dk = call.dk.data;
  a.dv = call.dv.data;
  a.dk_rows = backward_strides(call.dk);
  a.dv_rows = backward_strides(call.dv);
  a.minus_lse = scratch.minus_lse;
  a.minus_delta = scratch.minus_delta;
  a.dq = scratch.dq;
  a.counters = scratch.counters;
  a.key_tiles = static_cast<int>((call.keys + Tile::kKeys - 1) / Tile::kKeys);
  a.deterministic = call.deterministic;
  const auto map = [&](const AttentionRows& rows, bool ragged, std::int64_t heads,
                       std::int64_t count, std::int64_t total, int box_rows) {
    return make_tensor_map(context,
                           HeadsView{.data = rows.data,
                                     .dtype = call.dtype,
                                     .batch = ragged ? 1 : call.batch,
                                     .rows = ragged ? total : count,
                                     .heads = heads,
                                     .columns = call.head_size,
                                     .batch_stride = rows.batch,
                                     .row_stride = rows.row,
                                     .head_stride = rows.head},
                           box_rows);
  };
  const bool ragged_q = call.query_offsets != nullptr, ragged_k = call.key_offsets != nullptr;
  const BackwardMaps maps{
      map(call.q, ragged_q, call.heads, call.queries, call.query_total, Tile::kQueries),
      map(call.k, ragged_k, call.kv_heads, call.keys, call.key_total, Tile::kKeys),
      map(call.v, ragged_k, call.kv_heads, call.keys, call.key_total, Tile::kKeys),
      map(call.dout, ragged_q, call.heads, call.queries, call.query_total, Tile::kQueries)};
  const unsigned blocks = to_unsigned(call.batch * call.kv_heads * a.key_tiles);
  launch(context, sm90_attention_backward_kernel<T, Tile, kForm>, blocks, Tile::kThreads,
         static_cast<std::size_t>(Tile::kSharedBytes), a, maps);
}

template <typename T, ScoreForm kForm>
void pick_sm90_backward(CudaContext& context, const AttentionBackwardCall& call,
                        const AttentionBackwardPlan& plan, const BackwardScratch& scratch) {
  if (plan.head_bucket == 64) {
    return launch_sm90_backward<T, BackwardTile<64>, kForm>(context, call, scratch);
  }
  launch_sm90_backward<T, BackwardTile<128>, kForm>(context, call, scratch);
}

}  // namespace engine::cuda
