// What the kernels of attention's backward share on the device.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_backward.h"

namespace engine::cuda {

struct BackwardRows {
  std::int64_t batch, row, head;
};

// Sizes and masks of a call, as every kernel gets them.
struct BackwardShape {
  const int* query_offsets;  // (batch + 1) or null
  const int* key_offsets;
  const int* position;  // (1) or null
  int batch, heads, group, head_size, queries, keys, window;
  std::int64_t tiles;  // of 64 queries, of a head, over all sequences
  float scale;
  bool causal;

  // Of sequence b: its first row in the tensors (0 where they have an axis of sequences), its
  // length, and the tile that its rows of statistics start with.
  __device__ int first_query(int b) const { return query_offsets ? query_offsets[b] : 0; }
  __device__ int first_key(int b) const { return key_offsets ? key_offsets[b] : 0; }
  __device__ int query_count(int b) const {
    return query_offsets ? query_offsets[b + 1] - query_offsets[b] : queries;
  }
  __device__ int key_count(int b) const {
    return key_offsets ? key_offsets[b + 1] - key_offsets[b] : keys;
  }
  __device__ std::int64_t first_tile(int b) const {
    constexpr int kTile = static_cast<int>(kBackwardQueryTile);
    return query_offsets ? query_offsets[b] / kTile + b
                         : static_cast<std::int64_t>(b) * ((queries + kTile - 1) / kTile);
  }
  __device__ int shift() const { return position ? *position : 0; }
};

// Whether the query at position p sees key j of a sequence.
struct BackwardMask {
  int keys, window;
  bool causal;

  __device__ bool sees(int p, int j) const {
    return j < keys && (!causal || j <= p) && (window == 0 || p - j < window);
  }
  // Whether some query at [p, p + queries) does not see some key of [j, j + keys).
  __device__ bool cuts(int p, int query_tile, int j, int key_tile) const {
    return j + key_tile > keys || (causal && j + key_tile - 1 > p) ||
           (window > 0 && p + query_tile - 1 - j >= window);
  }
  // Queries [begin, end) of `count`, at positions from `shift`, that see some key of [j, j + tile).
  __device__ int begin(int j, int shift) const { return causal ? max(0, j - shift) : 0; }
  __device__ int end(int j, int tile, int shift, int count) const {
    const int last = min(j + tile, keys) - 1;
    return window > 0 ? min(count, max(0, last + window - shift)) : count;
  }
};

inline BackwardShape backward_shape(const AttentionBackwardCall& call) {
  BackwardShape s{};
  s.query_offsets = call.query_offsets;
  s.key_offsets = call.key_offsets;
  s.position = call.position;
  s.batch = static_cast<int>(call.batch);
  s.heads = static_cast<int>(call.heads);
  s.group = static_cast<int>(call.heads / call.kv_heads);
  s.head_size = static_cast<int>(call.head_size);
  s.queries = static_cast<int>(call.queries);
  s.keys = static_cast<int>(call.keys);
  s.window = static_cast<int>(call.window < 0x3fffffff ? call.window : 0x3fffffff);
  s.tiles = backward_tiles(call);
  s.scale = call.scale;
  s.causal = call.causal;
  return s;
}

inline BackwardRows backward_strides(const AttentionRows& rows) {
  return {rows.batch, rows.row, rows.head};
}

}  // namespace engine::cuda
