// The warps that fill the ring: every stage's weights, and the keys and values of earlier
// positions, in the order in which the other warps will read them. None of it depends on the step,
// so the only waits are for a free slot, for older copies to arrive — and, in a mixture, for the
// choice of experts. (Bringing what comes next into L2 meanwhile was tried, and lost: memory
// streams no faster, and everything else of the block queues behind it.)
#pragma once

#include "kernels/cuda/step/attention.cuh"

namespace engine::cuda {

// One of the warps that fill the ring; it brings kRows rows of a tile, a lane a row.
struct StepFiller {
  static constexpr int kRows = kStepRows / kStepFillers;
  StepRing ring, oldest;  // the slot to fill, and that of kStepInFlight slots ago
  int warp, lane;         // of those that fill
  std::uint64_t policy;
  std::uint32_t slots = 0;  // taken so far
  unsigned routes = 0;      // choices of experts waited for

  __device__ StepFiller(StepShared& block, int warp_of_fillers, int lane_of_warp)
      : ring(block),
        oldest(block),
        warp(warp_of_fillers),
        lane(lane_of_warp),
        policy(evict_first_policy()) {}

  // Takes the next slot, of which this warp will bring `bytes`. Every lane calls.
  __device__ void take_slot(unsigned bytes) {
    mbarrier_wait(ring.slot_empty(), ring.phase ^ 1);
    if (slots >= kStepInFlight) {
      mbarrier_wait(oldest.slot_full(), oldest.phase);
      oldest.advance();
    }
    ++slots;
    if (lane == 0) mbarrier_arrive_expect(ring.slot_full(), bytes);
    __syncwarp();  // the bytes are announced before any can arrive
  }
  __device__ void copy(int offset, const void* source, unsigned bytes) {
    bulk_copy(ring.slot() + static_cast<std::uint32_t>(offset), source, bytes, ring.slot_full(),
              policy);
  }
  __device__ void end_slot() { ring.advance(); }
};

// A tile: the chunks of its rows that exist.
__device__ inline void fill_tile(StepFiller& f, const char* matrix, const StepStage& stage,
                                 int tile, int rows, int row_bytes) {
  const int r = f.warp * StepFiller::kRows + f.lane;
  const int row = f.lane < StepFiller::kRows ? tile_row(stage, tile, r) : rows;
  const bool exists = row < rows;
  const auto existing = static_cast<unsigned>(__popc(__ballot_sync(kFullWarp, exists)));
  const char* source = matrix + static_cast<std::int64_t>(row) * row_bytes;
  for (int k = 0; k < row_bytes; k += kStepChunk) {
    const auto bytes = static_cast<unsigned>(min(kStepChunk, row_bytes - k));
    f.take_slot(existing * bytes);
    if (exists) f.copy(r * kStepPitch, source + k, bytes);
    f.end_slot();
  }
}

template <typename T>
__device__ int weight_row_bytes(const StepStage& stage) {
  return stage.columns * static_cast<int>(stage.int8_weight ? 1 : sizeof(T));
}

// This block's tiles of a product, or of one expert `slot` of a mixture.
template <typename T>
__device__ void fill_product(StepFiller& f, StepShared& b, const StepStage& stage) {
  const int row_bytes = weight_row_bytes<T>(stage);
  const int per_matrix = stage.top_k > 0 ? stage.tiles / stage.top_k : stage.tiles;
  for (int t = step_first_tile(b.block, b.blocks, stage.rotation); t < stage.tiles; t += b.blocks) {
    const std::int64_t first =
        stage.top_k > 0 ? static_cast<std::int64_t>(b.chosen[t / per_matrix]) * stage.rows : 0;
    fill_tile(f, static_cast<const char*>(stage.weight) + first * row_bytes, stage, t % per_matrix,
              stage.rows, row_bytes);
  }
}

template <typename T>
__device__ void fill_router(StepFiller& f, StepShared& b, const StepStage& stage) {
  StepStage rows{};  // in their own order
  const int row_bytes = stage.columns * static_cast<int>(sizeof(T));
  for (int tile = 0; tile * kStepRows < stage.experts; ++tile) {
    fill_tile(f, static_cast<const char*>(stage.router), rows, tile, stage.experts, row_bytes);
  }
}

template <typename T>
__device__ void fill_moe_down(StepFiller& f, StepShared& b, const StepStage& stage) {
  const int row_bytes = weight_row_bytes<T>(stage);
  for (int s = 0; s < stage.top_k; ++s) {
    const std::int64_t first = static_cast<std::int64_t>(b.chosen[s]) * stage.rows;
    for (int t = step_first_tile(b.block, b.blocks, stage.rotation); t < stage.tiles;
         t += b.blocks) {
      fill_tile(f, static_cast<const char*>(stage.weight) + first * row_bytes, stage, t, stage.rows,
                row_bytes);
    }
  }
}

template <typename T>
__device__ void fill_attention(StepFiller& f, StepShared& b, const StepStage& stage) {
  const int position = step_position(b, stage), first = first_key_of(stage, position);
  const StepSplit split = step_split(position + 1 - first, stage.group, stage.kv_heads, b.blocks);
  const int group = f.warp * StepFiller::kRows + f.lane;  // of four keys: a row of a slot
  for (int i = step_first_tile(b.block, b.blocks, stage.rotation); i < split.units * split.splits;
       i += b.blocks) {
    const AttentionItem item = attention_item(stage, split, first, position, i);
    const T* keys = static_cast<const T*>(stage.k) + item.kv * stage.k_head;
    const T* values = static_cast<const T*>(stage.v) + item.kv * stage.v_head;
    const int end = min(item.end, position);
    for (int key = item.begin; key < end; key += kStepSlotKeys) {
      const std::int64_t at = static_cast<std::int64_t>(key + 4 * group) * stage.head_size;
      const int keys_of_group = f.lane < StepFiller::kRows ? min(4, end - key - 4 * group) : 0;
      const unsigned bytes = static_cast<unsigned>(max(keys_of_group, 0) * stage.head_size) *
                             static_cast<unsigned>(sizeof(T));
      const unsigned of_warp = __reduce_add_sync(kFullWarp, bytes);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        f.take_slot(of_warp);
        if (bytes > 0) f.copy(group * kStepPitch, (part == 0 ? keys : values) + at, bytes);
        f.end_slot();
      }
    }
  }
}

template <typename T>
__device__ void fill_stage(StepFiller& f, StepShared& b, const StepStage& stage) {
  switch (stage.kind) {
    case StepKind::kEmbed:
    case StepKind::kNorm:
      return;
    case StepKind::kProduct:
      return fill_product<T>(f, b, stage);
    case StepKind::kAttention:
      return fill_attention<T>(f, b, stage);
    case StepKind::kMoeUp: {
      fill_router<T>(f, b, stage);
      mbarrier_wait(shared_address(&b.routed), f.routes++ & 1);
      return fill_product<T>(f, b, stage);
    }
    case StepKind::kMoeDown:
      return fill_moe_down<T>(f, b, stage);
  }
}

// What the warps that fill do: the whole program, stage after stage.
template <typename T>
__device__ __noinline__ void fill_ring(StepShared& b, int warp, int lane) {
  StepFiller f(b, warp, lane);
  StepStage* stages = b.fill_stage[warp];  // this one and the next
  copy_stage(b, &stages[0], 0, lane);
  for (int i = 0; i < b.count; ++i) {
    cp_async_wait<0>();
    __syncwarp();  // this stage is there, and nobody reads the one before
    if (i + 1 < b.count) copy_stage(b, &stages[(i + 1) % 2], i + 1, lane);
    fill_stage<T>(f, b, stages[i % 2]);
  }
}

}  // namespace engine::cuda
