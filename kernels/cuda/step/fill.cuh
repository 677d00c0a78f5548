// The warps that fill the ring: every stage's weights, and the keys and values of earlier
// positions, in the order in which the other warps will read them. None of it depends on the step,
// so the only waits are for a free slot, for older copies to arrive — and, in a mixture, for the
// choice of experts. While the ring is full, some of what comes next comes into L2 (StepLookahead),
// where attention and a small product leave memory idle for long.
#pragma once

#include "kernels/cuda/device/stream.cuh"
#include "kernels/cuda/step/attention.cuh"

namespace engine::cuda {

// Rows of a matrix, and their scales or null.
struct StepRows {
  const char* weight;
  const std::uint16_t* scales;
  int rows, row_bytes;
};

// What a warp that fills brings into L2 while it waits for a free slot in the first tile of a stage
// that looks ahead: its kRows rows of each of the tiles behind that one. It does so slowly, since
// whatever else the blocks wait for would queue behind it.
struct StepLookahead {
  static constexpr int kRows = kStepRows / kStepFillers;
  const StepStage* stage;
  StepRows matrix;
  int warp;
  int tile, blocks;        // the tile that is next, and how far apart they are
  int row = 0, count = 0;  // the row of it that is next; rows to bring
  unsigned due;            // clock

  __device__ void begin(const StepStage& of, const StepRows& m, int first, int blocks_of_step) {
    const int tiles = max(0, (of.tiles - first + blocks_of_step - 1) / blocks_of_step - 1);
    stage = &of, matrix = m, tile = first + blocks_of_step, blocks = blocks_of_step, row = 0;
    count = min(min(tiles, kStepAheadTiles) * kRows, kStepAheadBytes / kStepFillers / m.row_bytes);
    due = static_cast<unsigned>(clock());
  }
  __device__ void end() { count = 0; }
  __device__ bool wants() const { return count > 0; }
  // The next row, if it is due.
  __device__ void bring() {
    const auto now = static_cast<unsigned>(clock());
    if (static_cast<int>(now - due) < 0) return;
    const int of_matrix = tile_row(*stage, tile, warp * kRows + row);
    if (of_matrix < matrix.rows && elect_one()) {
      bulk_prefetch(matrix.weight + static_cast<std::int64_t>(of_matrix) * matrix.row_bytes,
                    static_cast<unsigned>(matrix.row_bytes));
    }
    __syncwarp();
    due = now + static_cast<unsigned>(matrix.row_bytes / kStepAheadRate);
    --count;
    if (++row == kRows) row = 0, tile += blocks;
  }
};

// One of the warps that fill the ring; every kStepFillers-th slot is its own. All its lanes know the
// same, and one of them copies. Each of the warps sees every slot full before the slot is filled
// again, so none mistakes one round of the ring for another.
struct StepFiller {
  StepRing own;   // its next slot
  StepRing seen;  // the first slot that it has not seen full
  int ahead;      // slots of the sequence from the present place to its own
  int unseen;     // slots to see full before it may fill its own
  int lane;
  StepLookahead lookahead;
  std::uint64_t policy;
  unsigned routes = 0;  // choices of experts waited for

  __device__ StepFiller(StepShared& block, int warp, int lane_of_warp)
      : own(block),
        seen(block),
        ahead(warp),
        unseen(warp + 1 - kStepInFlight),
        lane(lane_of_warp),
        policy(evict_first_policy()) {
    own.advance(warp);
    lookahead.warp = warp;
  }

  // Whether one of the next `slots` slots is the warp's; they are its to fill, then to pass.
  __device__ bool has_own(int slots) const { return ahead < slots; }
  __device__ void pass(int slots) { ahead -= slots; }

  // Waits until its slot is free, and until all have arrived but the kStepInFlight - 1 before it.
  // What the last of them lets in comes first; that it has been seen is said in end_slot.
  __device__ void await_slot() {
    while (unseen > 1) {
      mbarrier_wait(seen.slot_full(), seen.phase);
      pass_seen();
    }
    while (lookahead.wants() &&
           !mbarrier_try_wait(own.slot_empty(), own.phase ^ 1, kStepAheadPause)) {
      lookahead.bring();
    }
    mbarrier_wait(own.slot_empty(), own.phase ^ 1);
    if (unseen > 0) mbarrier_wait(seen.slot_full(), seen.phase);
  }
  // One lane: says how many bytes the slot will get, then brings them.
  __device__ void announce(unsigned bytes) const { mbarrier_arrive_expect(own.slot_full(), bytes); }
  __device__ void copy(int offset, const void* source, unsigned bytes) const {
    bulk_copy(own.slot() + static_cast<std::uint32_t>(offset), source, bytes, own.slot_full(),
              policy);
  }
  __device__ void end_slot() {
    if (unseen > 0) pass_seen();
    own.advance(kStepFillers);
    ahead += kStepFillers;
    unseen += kStepFillers;
  }

 private:
  __device__ void pass_seen() {
    if (lane == 0) mbarrier_arrive(seen.slot_empty());
    seen.advance();
    --unseen;
  }
};

template <typename T>
__device__ int weight_row_bytes(const StepStage& stage) {
  return stage.columns * static_cast<int>(stage.int8_weight ? 1 : sizeof(T));
}

__device__ inline int slots_of_tile(int row_bytes) {
  return (row_bytes + kStepChunk - 1) / kStepChunk;
}

// The warp's slots of a tile of which rows exist by eights: such rows lie behind each other. The
// scales of eight rows are one copy, into the padding of the slot's first row.
__device__ inline void fill_whole_tile(StepFiller& f, const StepRows& m, const StepStage& stage,
                                       int tile) {
  constexpr int kEights = kStepRows / 8;
  const char* source[kEights];
  const std::uint16_t* scales[kEights];
  bool exists[kEights];
  unsigned rows = 0;
#pragma unroll
  for (int e = 0; e < kEights; ++e) {
    const int first = tile_row(stage, tile, e * 8);
    source[e] = m.weight + static_cast<std::int64_t>(first) * m.row_bytes;
    scales[e] = m.scales + first;
    exists[e] = first < m.rows;
    rows += exists[e] ? 8 : 0;
  }
  const int slots = slots_of_tile(m.row_bytes);
  while (f.has_own(slots)) {
    const int k = f.ahead * kStepChunk;
    const auto bytes = static_cast<unsigned>(min(kStepChunk, m.row_bytes - k));
    const bool with_scales = m.scales != nullptr && k == 0;
    f.await_slot();
    if (elect_one()) {
      f.announce(rows * (bytes + (with_scales ? 2 : 0)));
#pragma unroll
      for (int e = 0; e < kEights; ++e) {
        if (!exists[e]) continue;
        const char* row = source[e] + k;
#pragma unroll
        for (int r = 0; r < 8; ++r, row += m.row_bytes) {
          f.copy((e * 8 + r) * kStepPitch, row, bytes);
        }
        if (with_scales) f.copy(kStepChunk + e * 16, scales[e], 16);
      }
    }
    __syncwarp();
    f.end_slot();
  }
  f.pass(slots);
}

// Those of any tile: a lane a row, and a scale.
__device__ inline void fill_any_tile(StepFiller& f, const StepRows& m, const StepStage& stage,
                                     int tile) {
  const int row = f.lane < kStepRows ? tile_row(stage, tile, f.lane) : m.rows;
  const bool exists = row < m.rows;
  const auto existing = static_cast<unsigned>(__popc(__ballot_sync(kFullWarp, exists)));
  const char* source = m.weight + static_cast<std::int64_t>(row) * m.row_bytes;
  const int slots = slots_of_tile(m.row_bytes);
  while (f.has_own(slots)) {
    const int k = f.ahead * kStepChunk;
    const auto bytes = static_cast<unsigned>(min(kStepChunk, m.row_bytes - k));
    f.await_slot();
    if (k == 0 && exists && m.scales != nullptr) {
      store_shared_u16(f.own.slot() + kStepChunk + static_cast<std::uint32_t>(f.lane * 2),
                       m.scales[row]);
    }
    __syncwarp();  // the scales are there before the slot can be full
    if (f.lane == 0) f.announce(existing * bytes);
    __syncwarp();  // the bytes are announced before any can arrive
    if (exists) f.copy(f.lane * kStepPitch, source + k, bytes);
    f.end_slot();
  }
  f.pass(slots);
}

__device__ inline void fill_tile(StepFiller& f, const StepRows& m, const StepStage& stage,
                                 int tile) {
  if (stage.by_eight) {
    fill_whole_tile(f, m, stage, tile);
  } else {
    fill_any_tile(f, m, stage, tile);
  }
}

// This block's tiles from `tile` on, of `tiles`, of matrix `index` of those that lie behind each
// other. Returns the first tile past them.
template <typename T>
__device__ int fill_matrix(StepFiller& f, const StepStage& stage, int index, int tile, int tiles,
                           int blocks) {
  const int row_bytes = weight_row_bytes<T>(stage);
  const std::int64_t first = static_cast<std::int64_t>(index) * stage.rows;
  const StepRows matrix{static_cast<const char*>(stage.weight) + first * row_bytes,
                        stage.int8_weight ? stage.scales + first : nullptr, stage.rows, row_bytes};
  if (stage.looks_ahead) f.lookahead.begin(stage, matrix, tile, blocks);
  for (; tile < tiles; tile += blocks) {
    fill_tile(f, matrix, stage, tile);
    f.lookahead.end();
  }
  return tile;
}

// This block's tiles of a product, or of the experts of a mixture.
template <typename T>
__device__ void fill_product(StepFiller& f, StepShared& b, const StepStage& stage) {
  const int matrices = max(1, stage.top_k), per_matrix = stage.tiles / matrices;
  int tile = step_first_tile(b.block, b.blocks, stage.rotation);
  for (int s = 0; s < matrices; ++s, tile -= per_matrix) {
    const int matrix = stage.top_k > 0 ? b.chosen[s] : 0;
    tile = fill_matrix<T>(f, stage, matrix, tile, per_matrix, b.blocks);
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

template <typename T>
__device__ void fill_moe_down(StepFiller& f, StepShared& b, const StepStage& stage) {
  const int first = step_first_tile(b.block, b.blocks, stage.rotation);
  for (int s = 0; s < stage.top_k; ++s) {
    fill_matrix<T>(f, stage, b.chosen[s], first, stage.tiles, b.blocks);
  }
}

template <typename T>
__device__ void fill_attention(StepFiller& f, StepShared& b, const StepStage& stage) {
  const int position = step_position(b, stage), first = first_key_of(stage, position);
  const StepSplit split = step_split(position + 1 - first, stage.group, stage.kv_heads, b.blocks);
  const int key_bytes = stage.head_size * static_cast<int>(sizeof(T));
  for (int i = step_first_tile(b.block, b.blocks, stage.rotation); i < split.units * split.splits;
       i += b.blocks) {
    const AttentionItem item = attention_item(stage, split, first, position, i);
    const T* keys = static_cast<const T*>(stage.k) + item.kv * stage.k_head;
    const T* values = static_cast<const T*>(stage.v) + item.kv * stage.v_head;
    const int end = min(item.end, position);
    for (int key = item.begin; key < end; key += kStepSlotKeys) {
      const int count = min(end - key, kStepSlotKeys);  // four to a row of the slot
      const std::int64_t at = static_cast<std::int64_t>(key) * stage.head_size;
      for (int part = 0; part < 2; ++part, f.pass(1)) {
        if (!f.has_own(1)) continue;
        const T* source = (part == 0 ? keys : values) + at;
        f.await_slot();
        if (elect_one()) {
          f.announce(static_cast<unsigned>(count * key_bytes));
          for (int r = 0; r * 4 < count; ++r) {
            f.copy(r * kStepPitch, source + static_cast<std::int64_t>(r) * 4 * stage.head_size,
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
      fill_router<T>(f, stage);
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
