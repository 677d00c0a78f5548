// The warps that fill the ring: every stage's weights, and the keys and values of earlier
// positions, in the order in which the other warps will read them. None of it depends on the step,
// so the only waits are for a free slot, for older copies to arrive — and, in a mixture, for the
// choice of experts. (Bringing what comes next into L2 meanwhile was tried, and lost: memory
// streams no faster, and everything else of the block queues behind it.)
#pragma once

#include "kernels/cuda/device/stream.cuh"
#include "kernels/cuda/step/attention.cuh"
#include "kernels/cuda/step/own_columns.cuh"

namespace engine::cuda {

// One of the warps that fill the ring; it brings kRows rows of every slot. All its lanes know the
// same, and one of them copies.
struct StepFiller {
  static constexpr int kRows = kStepRows / kStepFillers;
  StepRing ring, oldest;  // the slot to fill, and the first of those on their way
  int warp, lane;         // of those that fill
  std::uint64_t policy;
  int on_their_way = 0;
  unsigned routes = 0;  // choices of experts waited for

  __device__ StepFiller(StepShared& block, int warp_of_fillers, int lane_of_warp)
      : ring(block),
        oldest(block),
        warp(warp_of_fillers),
        lane(lane_of_warp),
        policy(evict_first_policy()) {}

  // Waits until the next slot is free and fewer than `most` are on their way.
  __device__ void await_slot(int most = kStepInFlight) {
    mbarrier_wait(ring.slot_empty(), ring.phase ^ 1);
    for (; on_their_way >= most; --on_their_way) {
      mbarrier_wait(oldest.slot_full(), oldest.phase);
      oldest.advance();
    }
    ++on_their_way;
  }
  // One lane: says how many bytes this warp will bring, then brings them.
  __device__ void announce(unsigned bytes) const {
    mbarrier_arrive_expect(ring.slot_full(), bytes);
  }
  __device__ void copy(int offset, const void* source, unsigned bytes) const {
    bulk_copy(ring.slot() + static_cast<std::uint32_t>(offset), source, bytes, ring.slot_full(),
              policy);
  }
  // What other blocks read as well.
  __device__ void copy_kept(int offset, const void* source, unsigned bytes) const {
    bulk_copy(ring.slot() + static_cast<std::uint32_t>(offset), source, bytes, ring.slot_full());
  }
  __device__ void end_slot() { ring.advance(); }
};

template <typename T>
__device__ int weight_row_bytes(const StepStage& stage) {
  return stage.columns * static_cast<int>(stage.int8_weight ? 1 : sizeof(T));
}

// Rows of a matrix, and their scales or null.
struct StepRows {
  const char* weight;
  const std::uint16_t* scales;
  int rows, row_bytes;
};

// A tile of which rows exist by eights: the warp's rows lie behind each other. The scales of eight
// rows are one copy, into the padding of the slot's first row.
__device__ inline void fill_whole_tile(StepFiller& f, const StepRows& m, const StepStage& stage,
                                       int tile) {
  constexpr int kWarps = 8 / StepFiller::kRows;  // that share eight rows
  const int eight = f.warp / kWarps, first = tile_row(stage, tile, eight * 8);
  const bool exists = first < m.rows, brings_scales = m.scales != nullptr && f.warp % kWarps == 0;
  const char* source =
      m.weight +
      static_cast<std::int64_t>(first + f.warp % kWarps * StepFiller::kRows) * m.row_bytes;
  const std::uint16_t* scales = m.scales + first;
  for (int k = 0; k < m.row_bytes; k += kStepChunk) {
    const auto bytes = static_cast<unsigned>(min(kStepChunk, m.row_bytes - k));
    const bool with_scales = exists && brings_scales && k == 0;
    f.await_slot();
    if (elect_one()) {
      f.announce((exists ? StepFiller::kRows * bytes : 0) + (with_scales ? 16 : 0));
      if (exists) {
#pragma unroll
        for (int r = 0; r < StepFiller::kRows; ++r) {
          f.copy(step_row_place(f.warp * StepFiller::kRows + r),
                 source + static_cast<std::int64_t>(r) * m.row_bytes + k, bytes);
        }
      }
      if (with_scales) f.copy(kStepChunk + eight * 16, scales, 16);
    }
    __syncwarp();
    f.end_slot();
  }
}

// Any tile: a lane a row, and, in one warp, a lane a scale.
__device__ inline void fill_any_tile(StepFiller& f, const StepRows& m, const StepStage& stage,
                                     int tile) {
  const int r = f.warp * StepFiller::kRows + f.lane;
  const int row = f.lane < StepFiller::kRows ? tile_row(stage, tile, r) : m.rows;
  const bool exists = row < m.rows;
  const auto existing = static_cast<unsigned>(__popc(__ballot_sync(kFullWarp, exists)));
  const char* source = m.weight + static_cast<std::int64_t>(row) * m.row_bytes;
  const int scale_row = m.scales != nullptr && f.warp == 0 && f.lane < kStepRows
                            ? tile_row(stage, tile, f.lane)
                            : m.rows;
  for (int k = 0; k < m.row_bytes; k += kStepChunk) {
    const auto bytes = static_cast<unsigned>(min(kStepChunk, m.row_bytes - k));
    f.await_slot();
    if (k == 0 && scale_row < m.rows) {
      store_shared_u16(f.ring.slot() + kStepChunk + static_cast<std::uint32_t>(f.lane * 2),
                       m.scales[scale_row]);
    }
    __syncwarp();  // the scales are there before the slot can be full
    if (f.lane == 0) f.announce(existing * bytes);
    __syncwarp();  // the bytes are announced before any can arrive
    if (exists) f.copy(step_row_place(r), source + k, bytes);
    f.end_slot();
  }
}

__device__ inline void fill_tile(StepFiller& f, const StepRows& m, const StepStage& stage,
                                 int tile) {
  if (stage.by_eight) {
    fill_whole_tile(f, m, stage, tile);
  } else {
    fill_any_tile(f, m, stage, tile);
  }
}

// A tile of matrix `index` of those that lie behind each other.
template <typename T>
__device__ void fill_matrix_tile(StepFiller& f, const StepStage& stage, int index, int tile) {
  const int row_bytes = weight_row_bytes<T>(stage);
  const std::int64_t first = static_cast<std::int64_t>(index) * stage.rows;
  const StepRows matrix{static_cast<const char*>(stage.weight) + first * row_bytes,
                        stage.int8_weight ? stage.scales + first : nullptr, stage.rows, row_bytes};
  fill_tile(f, matrix, stage, tile);
}

// This block's tiles of a product, or of the experts of a mixture.
template <typename T>
__device__ void fill_product(StepFiller& f, StepShared& b, const StepStage& stage) {
  const int begin = step_first_tile(b.block, b.blocks, stage.rotation);
  const int stride = step_stride(stage, begin, b.blocks);
  for (int t = begin; t < stage.tiles; t += stride) {
    const MatrixTile at(stage, t);
    fill_matrix_tile<T>(f, stage, stage.kind == StepKind::kMoeUp ? b.chosen[at.matrix] : 0,
                        at.tile);
  }
}

template <typename T>
__device__ void fill_router(StepFiller& f, const StepStage& stage) {
  StepStage rows{};  // in their own order
  rows.by_eight = stage.experts % 8 == 0;
  const StepRows router{static_cast<const char*>(stage.router), nullptr, stage.experts,
                        stage.columns * static_cast<int>(sizeof(T))};
  for (int tile = 0; tile * kStepRows < stage.experts; ++tile) fill_tile(f, router, rows, tile);
}

// The router of a stage with own columns: a slot for each group of warps, in which every expert has
// two rows.
__device__ inline void fill_held_router(StepFiller& f, const StepStage& stage) {
  static_assert(kStepRows == 2 * kStepHeldExperts && kStepRouterPart == 2 * kStepChunk);
  const int first = f.warp * StepFiller::kRows;  // of the rows of a slot that the warp brings
  const int count = max(0, min(2 * stage.experts - first, StepFiller::kRows));
  const char* source = static_cast<const char*>(stage.router);
  for (int group = 0; group < kStepGroups; ++group) {
    f.await_slot();
    if (elect_one()) {
      f.announce(static_cast<unsigned>(count * kStepChunk));
      for (int r = first; r < first + count; ++r) {
        const char* from =
            source + r / 2 * kStepRouterRow + group * kStepRouterPart + r % 2 * kStepChunk;
        f.copy_kept(step_row_place(r), from, kStepChunk);
      }
    }
    __syncwarp();
    f.end_slot();
  }
}

template <typename T>
__device__ void fill_moe_down(StepFiller& f, StepShared& b, const StepStage& stage) {
  for (int s = 0; s < stage.top_k; ++s) {
    for (int t = step_first_tile(b.block, b.blocks, stage.rotation); t < stage.tiles;
         t += b.blocks) {
      fill_matrix_tile<T>(f, stage, b.chosen[s], t);
    }
  }
}

template <typename T>
__device__ void fill_attention(StepFiller& f, StepShared& b, const StepStage& stage) {
  const int position = step_position(b, stage), first = first_key_of(stage, position);
  const StepSplit split = attention_split(b, stage);
  const int key_bytes = stage.head_size * static_cast<int>(sizeof(T));
  for (int i = step_first_tile(b.block, b.blocks, stage.rotation); i < split.units * split.splits;
       i += b.blocks) {
    const AttentionItem item = attention_item(stage, split, first, position, i);
    const T* keys = static_cast<const T*>(stage.k) + item.kv * stage.k_head;
    const T* values = static_cast<const T*>(stage.v) + item.kv * stage.v_head;
    const int end = min(item.end, position);
    // Of a short item all may be on their way: they are few, and the block waits for the last.
    const int most = is_short(f.ring, item) ? 2 * kStepGroups : kStepInFlight;
    for (int key = item.begin; key < end; key += kStepSlotKeys) {
      // Keys of this warp, four to a row of the slot.
      const int first = key + f.warp * StepFiller::kRows * 4;
      const std::int64_t at = static_cast<std::int64_t>(first) * stage.head_size;
      const int count = max(0, min(end - first, StepFiller::kRows * 4));
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const T* source = (part == 0 ? keys : values) + at;
        f.await_slot(most);
        if (elect_one()) {
          f.announce(static_cast<unsigned>(count * key_bytes));
#pragma unroll
          for (int r = 0; r < StepFiller::kRows; ++r) {
            if (count <= r * 4) break;
            f.copy(step_row_place(f.warp * StepFiller::kRows + r),
                   source + static_cast<std::int64_t>(r) * 4 * stage.head_size,
                   static_cast<unsigned>(min(4, count - r * 4) * key_bytes));
          }
        }
        __syncwarp();
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
      if (!stage.holds_router) {
        fill_router<T>(f, stage);
      } else if (is_own(stage)) {
        fill_held_router(f, stage);
      }
      mbarrier_wait(shared_address(&b.routed), f.routes++ & 1);
      return fill_product<T>(f, b, stage);
    }
    case StepKind::kMoeDown:
      fill_moe_down<T>(f, b, stage);
      mbarrier_arrive(shared_address(&b.heard));  // every lane has read the choice
      return;
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
