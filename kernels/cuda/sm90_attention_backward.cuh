// What the parts of Hopper's attention backward share: tiles, parameters, shared memory, steps.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/device/cp_async.cuh"

namespace engine::cuda {

// kHead: the compiled head size. Two consumer warpgroups of 64 keys each; queries pass in tiles.
template <int kHeadSize>
struct BackwardTile {
  static constexpr int kHead = kHeadSize, kKeys = 128, kQueries = 64, kGroups = 2;
  static constexpr int kStages = 3, kGradientStages = 2;
  static constexpr int kBlocks = kHead / 64;  // of 64 columns, as they lie in shared memory
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kSumRegisters = kHead / 2;    // of dK, of dV: 64 keys × kHead
  static constexpr int kScoreRegisters = 32;         // 64 keys × 64 queries
  static constexpr int kQueryRegisters = kHead / 4;  // of dQ: 64 queries × kHead / 2
  static constexpr int kKeyBlockBytes = kKeys * 128, kQueryBlockBytes = kQueries * 128;
  static constexpr int kKeyBytes = kBlocks * kKeyBlockBytes;
  static constexpr int kQueryBytes = kBlocks * kQueryBlockBytes;
  static constexpr int kGradientBytes = kGroups * kQueryBlockBytes;  // dS: 64 queries × 128 keys
  static constexpr int kRowBytes = kQueries * 4;
  // K, V, the stages of Q and of dO, the stages of dS, those of −lse and of −δ; the barriers; room
  // to align the start.
  static constexpr int kTileBytes =
      2 * kKeyBytes + 2 * kStages * (kQueryBytes + kRowBytes) + kGradientStages * kGradientBytes;
  static constexpr int kSharedBytes = kTileBytes + 1024 + 256;
  static_assert(kHead == 64 || kHead == 128);
};

struct Sm90BackwardArguments {
  BackwardShape shape;
  void *dk, *dv;
  BackwardRows dk_rows, dv_rows;
  const float *minus_lse, *minus_delta;  // (H, tiles, 64)
  float* dq;                             // (H, tiles, 2, kHead / 16, 128, 4)
  std::uint32_t* counters;               // (H, tiles, 2), then the next block
  int key_tiles;
  bool deterministic;
};

// The work of a block: a tile of keys of one key/value head of a sequence, against the tiles of
// queries [begin, end) of each head of its group.
struct BackwardItem {
  int batch, kv_head, first_key;  // first_key: of the tile, in its sequence
  int key_tile, begin, end, steps, shift, keys, count;

  template <typename Tile>
  __device__ static BackwardItem make(const Sm90BackwardArguments& a, int index) {
    BackwardItem item;
    // The tiles of keys that most queries see first; in order, where they go up from the last, so
    // that one waits for those that began earlier.
    item.key_tile = index % a.key_tiles;
    if (a.deterministic) item.key_tile = a.key_tiles - 1 - item.key_tile;
    const int kv_heads = a.shape.heads / a.shape.group;
    item.kv_head = index / a.key_tiles % kv_heads;
    item.batch = index / a.key_tiles / kv_heads;
    item.first_key = item.key_tile * Tile::kKeys;
    item.shift = a.shape.shift();
    item.keys = a.shape.key_count(item.batch);
    item.count = a.shape.query_count(item.batch);
    item.begin = item.end = 0;
    if (item.first_key < item.keys) {
      const KeyInterval seeing = BackwardMask{a.shape.rule, item.keys}.queries(
          item.first_key, Tile::kKeys, item.shift, item.count);
      item.begin = max(0, seeing.begin) / Tile::kQueries;
      item.end = (min(max(0, seeing.end), item.count) + Tile::kQueries - 1) / Tile::kQueries;
    }
    item.steps = max(0, item.end - item.begin) * a.shape.group;
    return item;
  }
};

// Walks the steps of an item. unit: the first half of the tile's dQ in the sums.
struct BackwardPlace {
  int tile, head;
  std::int64_t unit;

  __device__ explicit BackwardPlace(const Sm90BackwardArguments& a, const BackwardItem& item)
      : tile(item.begin), head(item.kv_head * a.shape.group) {
    unit = (head * a.shape.tiles + a.shape.first_tile(item.batch) + tile) * 2;
  }
  __device__ void advance(const Sm90BackwardArguments& a, const BackwardItem& item) {
    ++tile, unit += 2;
    if (tile == item.end) {
      tile = item.begin, ++head;
      unit += (a.shape.tiles - (item.end - item.begin)) * 2;
    }
  }
};

// Shared memory of a block. full: of Q, of dO, of −lse and −δ; empty: of all.
template <typename Tile>
struct BackwardShared {
  std::uint8_t *k, *v;             // (kBlocks, kKeys, 64)
  std::uint8_t *q, *dout;          // (kStages, kBlocks, kQueries, 64)
  std::uint8_t* gradient;          // (2, kGroups, kQueries, 64)
  float *minus_lse, *minus_delta;  // (kStages, kQueries)
  std::uint64_t *k_full, *v_full, *q_full, *dout_full, *rows_full, *empty;
  std::uint64_t *gradient_full, *gradient_empty;
  std::uint64_t *turn, *added;  // of each group
  int* item;

  __device__ explicit BackwardShared(std::uint8_t* raw) {
    k = raw + (1024 - shared_address(raw) % 1024) % 1024;  // the swizzle counts from 1024
    v = k + Tile::kKeyBytes;
    q = v + Tile::kKeyBytes;
    dout = q + Tile::kStages * Tile::kQueryBytes;
    gradient = dout + Tile::kStages * Tile::kQueryBytes;
    minus_lse = reinterpret_cast<float*>(gradient + Tile::kGradientStages * Tile::kGradientBytes);
    minus_delta = minus_lse + Tile::kStages * Tile::kQueries;
    k_full = reinterpret_cast<std::uint64_t*>(k + Tile::kTileBytes);
    v_full = k_full + 1;
    q_full = v_full + 1;
    dout_full = q_full + Tile::kStages;
    rows_full = dout_full + Tile::kStages;
    empty = rows_full + Tile::kStages;
    gradient_full = empty + Tile::kStages;
    gradient_empty = gradient_full + Tile::kGradientStages;
    turn = gradient_empty + Tile::kGradientStages;
    added = turn + Tile::kGroups;
    item = reinterpret_cast<int*>(added + Tile::kGroups);
  }
};

}  // namespace engine::cuda
