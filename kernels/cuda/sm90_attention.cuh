// What the parts of Hopper's flash attention share: parameters, work items, shared memory.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/device/cp_async.cuh"

namespace engine::cuda {

// kHead: the compiled head size; kGroups: consumer warpgroups, 64 queries each; kQueryStages:
// blocks of queries in shared memory, 2 where the next one is to come while this one is worked on.
template <int kHeadSize, int kGroupCount, int kQueryStageCount = 1>
struct AttentionTile {
  static constexpr int kHead = kHeadSize, kGroups = kGroupCount;
  static constexpr int kQueryStages = kQueryStageCount;
  static constexpr int kQueries = 64 * kGroups, kStages = 2;
  static constexpr int kKeys = kHead > 128 ? 64 : 128;
  static constexpr int kBlocks = kHead / 64;  // of 64 columns, as they lie in shared memory
  // out: parts of the columns, one product each; of score: one part.
  static constexpr int kPartColumns = kHead % 128 == 0 ? 128 : 64;
  static constexpr int kParts = kHead / kPartColumns, kPartRegisters = kPartColumns / 2;
  static constexpr int kScoreRegisters = kKeys / 2;
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kQueryBlockBytes = kQueries * 128, kKeyBlockBytes = kKeys * 128;
  static constexpr int kQueryBytes = kBlocks * kQueryBlockBytes;
  static constexpr int kKeyBytes = kBlocks * kKeyBlockBytes;
  // The stages of Q, then those of K, then those of V; the barriers; room to align the start.
  static constexpr int kTileBytes = kQueryStages * kQueryBytes + 2 * kStages * kKeyBytes;
  static constexpr int kSharedBytes = kTileBytes + 1024 + 128;
  static_assert(kHead % 64 == 0 && kGroups >= 2 && kGroups <= 3);
};

// Sums of a lane: 64 queries × kHead over a warpgroup, in parts as wgmma's fragments.
template <typename Tile>
using AttentionSums = float[Tile::kParts][Tile::kPartRegisters];

struct Sm90AttentionArguments {
  void* out;            // (T, H, Dh)
  float* lse;           // (H, T) or null
  const int* position;  // (1)
  std::int64_t out_token, out_head, lse_head;
  int head_size, heads, group, tokens, bound, window;
  int query_blocks, section_heads;
  float scale_log2;
  bool causal;
};

// A block of queries of one head, and the keys that its queries see: [begin, end), in tiles that
// end at `end`, so that a causal block of full tiles masks its last one alone and no tile holds a
// row past the length.
struct AttentionItem {
  int head, first_token, first_query;  // first_query: the position of first_token
  int begin, end, tiles;

  // Whether memory in front of `begin` may hold anything.
  __device__ bool has_rows_before() const { return begin > 0; }
  // First key of tile `i`, counted from the end; may be negative, or below `begin`, in the last.
  template <typename Tile>
  __device__ int first_key(int i) const {
    return end - (i + 1) * Tile::kKeys;
  }
};

// Item `round` of this block. Sections of heads whose keys and values share L2 come one after the
// other, in each the longest blocks first; every second round runs backwards over the grid, which
// evens out what the blocks get. False past the last.
template <typename Tile>
__device__ bool attention_item(const Sm90AttentionArguments& a, int position, int round,
                               AttentionItem* item) {
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  const int index = round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
  if (round * blocks >= a.heads * a.query_blocks) return false;
  const bool valid = index < a.heads * a.query_blocks;
  const int section_items = a.section_heads * a.query_blocks;
  const int first_head = index / section_items * a.section_heads;
  const int heads = min(a.section_heads, a.heads - first_head), rest = index % section_items;
  item->head = first_head + rest % max(heads, 1);
  item->first_token = (a.query_blocks - 1 - rest / max(heads, 1)) * Tile::kQueries;
  item->first_query = position + item->first_token;
  const int last_token = min(item->first_token + Tile::kQueries, a.tokens) - 1;
  item->end = min(a.causal ? position + last_token + 1 : position + a.tokens, a.bound);
  item->begin = a.window > 0 ? max(0, item->first_query - a.window + 1) : 0;
  // The last round may leave this block without an item: one without tiles and tokens.
  item->tiles = valid ? (max(item->end - item->begin, 0) + Tile::kKeys - 1) / Tile::kKeys : 0;
  if (!valid) item->first_token = a.tokens;
  return true;
}

// Shared memory of a block.
template <typename Tile>
struct AttentionShared {
  // (kQueryStages, kBlocks, kQueries, 64), (kStages, kBlocks, kKeys, 64) twice
  std::uint8_t *q, *k, *v;
  std::uint64_t *q_full, *q_empty, *k_full, *k_empty, *v_full, *v_empty;

  __device__ explicit AttentionShared(std::uint8_t* raw) {
    q = raw + (1024 - shared_address(raw) % 1024) % 1024;  // the swizzle counts from 1024
    k = q + Tile::kQueryStages * Tile::kQueryBytes;
    v = k + Tile::kStages * Tile::kKeyBytes;
    q_full = reinterpret_cast<std::uint64_t*>(q + Tile::kTileBytes);
    q_empty = q_full + Tile::kQueryStages;
    k_full = q_empty + Tile::kQueryStages;
    k_empty = k_full + Tile::kStages;
    v_full = k_empty + Tile::kStages;
    v_empty = v_full + Tile::kStages;
  }
};

}  // namespace engine::cuda
