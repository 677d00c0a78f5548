// attention for many queries on Hopper: flash attention with warpgroup products and bulk copies.
//
//   out[t, h] = Σ_j softmax_j(scale · q[t, h] · k[g, j]) v[g, j]
// Layout: q and out (T, H, Dh), caches (G, C, Dh), all strided with 16-byte rows; heads smaller
// than the compiled size are zero-filled by the copies. Who computes what: a persistent grid, one
// block to a multiprocessor, takes items of kQueries queries of one head (sm90_attention.cuh has
// their order). One thread of the first warpgroup copies Q and the tiles of 128 keys into rings of
// shared memory; each further warpgroup has 64 queries (sm90_attention_consumer.cuh): S and O in
// registers, P from S as the A operand. fp32 sums in a fixed order: the same bits on every run.
// Limit: tensor-core rate, or for Dh = 64 that of exp2.
#pragma once

#include <algorithm>

#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/tma_tensor.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/sm90_attention_consumer.cuh"
#include "kernels/cuda/tensor_map.h"

namespace engine::cuda {

// The producer: one thread, all items of the block.
template <typename Tile>
__device__ void copy_items(const Sm90AttentionArguments& a, const AttentionShared<Tile>& shared,
                           int position, const CUtensorMap* q_map, const CUtensorMap* k_map,
                           const CUtensorMap* v_map) {
  RingPlace<1> q_place;
  RingPlace<Tile::kStages> place;  // of K and of V alike
  AttentionItem item;
  for (int round = 0; attention_item<Tile>(a, position, round, &item); ++round) {
    if (item.tiles == 0) continue;
    mbarrier_wait(shared.q_empty, q_place.parity ^ 1);
    mbarrier_arrive_expect(shared.q_full, Tile::kQueryBytes);
    for (int b = 0; b < Tile::kBlocks; ++b) {
      tma_load_3d(shared.q + b * Tile::kQueryBlockBytes, q_map, shared.q_full, b * 64,
                  item.first_token, item.head);
    }
    q_place.advance();
    const auto copy_tile = [&](std::uint8_t* ring, const CUtensorMap* map, std::uint64_t* full,
                               std::uint64_t* empty, int key) {
      mbarrier_wait(empty + place.slot, place.parity ^ 1);
      mbarrier_arrive_expect(full + place.slot, Tile::kKeyBytes);
      for (int b = 0; b < Tile::kBlocks; ++b) {
        tma_load_3d(ring + place.slot * Tile::kKeyBytes + b * Tile::kKeyBlockBytes, map,
                    full + place.slot, b * 64, key, item.head / a.group);
      }
    };
    for (int tile = 0; tile < item.tiles; ++tile) {
      const int key = item.first_key<Tile>(tile);
      copy_tile(shared.k, k_map, shared.k_full, shared.k_empty, key);
      copy_tile(shared.v, v_map, shared.v_full, shared.v_empty, key);
      place.advance();
    }
  }
}

// A consumer warpgroup, all items of the block.
template <typename T, typename Tile>
__device__ __forceinline__ void attend_items(const Sm90AttentionArguments& a,
                                             const AttentionShared<Tile>& shared, int position) {
  ConsumerState<Tile> state;
  state.group = static_cast<int>(threadIdx.x) / 128 - 1;
  // The last group gives the first its first turn, and the first takes the one left in the end.
  if (state.group == Tile::kGroups - 1) named_barrier_arrive(kTurn, 256);
  AttentionItem item;
  for (int round = 0; attention_item<Tile>(a, position, round, &item); ++round) {
    AttentionSums<Tile> out = {};
    OnlineSoftmax softmax;
    if (item.tiles > 0) {
      const PrefillScores<Tile> scores(a, item, state.group);
      attend<T, Tile>(scores, shared, item, state, out, softmax);
    }
    write_item<T, Tile>(PrefillRows{a, item}, state.group, out, softmax);
  }
  if (state.group == 0) named_barrier_sync(kTurn, 256);
}

template <typename T, typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    sm90_attention_prefill_kernel(const Sm90AttentionArguments a,
                                  const __grid_constant__ CUtensorMap q_map,
                                  const __grid_constant__ CUtensorMap k_map,
                                  const __grid_constant__ CUtensorMap v_map) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ std::uint8_t raw[];
  const AttentionShared<Tile> shared(raw);
  if (threadIdx.x == 0) {
    mbarrier_init(shared.q_full, 1);
    mbarrier_init(shared.q_empty, Tile::kGroups * 4);
    for (int s = 0; s < Tile::kStages; ++s) {
      mbarrier_init(shared.k_full + s, 1);
      mbarrier_init(shared.v_full + s, 1);
      mbarrier_init(shared.k_empty + s, Tile::kGroups * 4);
      mbarrier_init(shared.v_empty + s, Tile::kGroups * 4);
    }
    fence_mbarrier_init();
  }
  pdl_launch_dependents();
  pdl_wait();
  __syncthreads();  // the barriers are initialised
  const int position = *a.position;
  // 64 K registers: what the producer gives back, the consumers take.
  constexpr int kProducerRegisters = Tile::kGroups == 2 ? 40 : 32;
  constexpr int kConsumerRegisters = Tile::kGroups == 2 ? 232 : 160;
  if (threadIdx.x < 128) {
    give_registers_back<kProducerRegisters>();
    if (threadIdx.x == 0) copy_items<Tile>(a, shared, position, &q_map, &k_map, &v_map);
  } else {
    take_registers<kConsumerRegisters>();
    attend_items<T, Tile>(a, shared, position);
  }
#endif
}

template <typename T, typename Tile>
void launch_sm90_prefill(CudaContext& context, const AttentionCall& call) {
  Sm90AttentionArguments a{};
  a.out = call.out.data;
  a.lse = call.lse.as<float>();
  a.position = call.position.as<int>();
  a.out_token = call.out.stride(0), a.out_head = call.out.stride(1);
  a.lse_head = call.lse ? call.lse.stride(0) : 0;
  a.head_size = static_cast<int>(call.q.size(2));
  a.heads = static_cast<int>(call.q.size(1));
  a.group = static_cast<int>(call.q.size(1) / call.k_cache.size(0));
  a.tokens = static_cast<int>(call.q.size(0));
  a.bound = static_cast<int>(call.bound);
  a.window = static_cast<int>(std::min<std::int64_t>(call.window, 0x3fffffff));
  a.query_blocks = (a.tokens + Tile::kQueries - 1) / Tile::kQueries;
  constexpr std::int64_t kKeyAndValueBytes = 4;  // of a column
  a.section_heads = static_cast<int>(
      attention_section(context.arch(), a.heads, a.query_blocks,
                        call.bound * call.q.size(2) * kKeyAndValueBytes / a.group));
  a.scale_log2 = call.scale * 1.4426950408889634f;
  a.causal = call.causal;
  const auto map = [&](const Tensor& tensor, int plane_axis, std::int64_t rows, int box_rows) {
    return make_tensor_map(context,
                           {.data = tensor.data,
                            .dtype = tensor.dtype,
                            .planes = tensor.size(plane_axis),
                            .rows = rows,
                            .columns = tensor.size(2),
                            .plane_stride = tensor.stride(plane_axis),
                            .row_stride = tensor.stride(1 - plane_axis)},
                           box_rows);
  };
  const std::int64_t items = call.q.size(1) * a.query_blocks;
  const unsigned blocks = to_unsigned(std::min<std::int64_t>(items, context.arch().sms));
  launch(context, sm90_attention_prefill_kernel<T, Tile>, blocks, Tile::kThreads,
         static_cast<std::size_t>(Tile::kSharedBytes), a,
         map(call.q, 1, call.q.size(0), Tile::kQueries),
         map(call.k_cache, 0, call.bound, Tile::kKeys),
         map(call.v_cache, 0, call.bound, Tile::kKeys));
}

}  // namespace engine::cuda
