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
  ScoreRule rule;
  int batch, heads, group, head_size, queries, keys;
  std::int64_t tiles;  // of 64 queries, of a head, over all sequences
  float scale;

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

// Who sees whom in a sequence of `keys` keys, queries by position.
struct BackwardMask {
  const ScoreRule& rule;
  int keys;

  __device__ bool sees(int p, int j) const {
    const KeyInterval range = visible_keys(rule, p, keys);
    return j >= range.begin && j < range.end;
  }
  // Whether some query of [p, p + queries) does not see some key of [j, j + tile).
  __device__ bool cuts(int p, int queries, int j, int tile) const {
    return j < visible_keys(rule, p + queries - 1, keys).begin ||
           j + tile > visible_keys(rule, p, keys).end;
  }
  // Of the tiles [begin, end) of `queries` queries, at positions from `shift`, those that
  // [j, j + tile) cuts nowhere: as both ends of what a query sees never fall, one run of them.
  __device__ KeyInterval whole(int begin, int end, int queries, int shift, int j, int tile) const {
    const auto first = [&](int low, auto&& from) {
      for (int high = end; low < high;) {
        const int middle = (low + high) / 2;
        if (from(shift + middle * queries)) {
          high = middle;
        } else {
          low = middle + 1;
        }
      }
      return low;
    };
    const int low =
        first(begin, [&](int p) { return j + tile <= visible_keys(rule, p, keys).end; });
    return {low,
            first(low, [&](int p) { return j < visible_keys(rule, p + queries - 1, keys).begin; })};
  }
  // Of `count` queries, at positions from `shift`, those that may see a key of [j, j + tile), j
  // being one. Both ends never fall as j grows.
  __device__ KeyInterval queries(int j, int tile, int shift, int count) const {
    const KeyInterval seeing =
        seeing_queries(rule, {j, min(j + tile, keys)}, {shift, shift + count});
    return {seeing.begin - shift, seeing.end - shift};
  }
};

// The row of the table that is not affine.
using FreeScore = SoftCapScore;

// What becomes of a score where the kernel isn't compiled for it. `row` is −lse and the offset, in
// units of log2.
struct BackwardScore {
  const ScoreRule& rule;
  float scale, slope_log2;
  bool affine;

  __device__ BackwardScore(const BackwardShape& shape, int head)
      : rule(shape.rule),
        scale(shape.scale),
        slope_log2(score_slope(shape.rule, head) * 1.4426950408889634f),
        affine(score_is_affine(shape.rule.kind)) {}

  // P of a score, and the derivative; `distance` is q − k.
  __device__ float probability(float score, int distance, float row, float* derivative) const {
    constexpr float kLog2e = 1.4426950408889634f;
    *derivative = 1.0f;
    if (affine) {
      const float bias = fmaf(slope_log2, static_cast<float>(distance), row);
      return exp2f(fmaf(score, scale * kLog2e, bias));
    }
    const float value = FreeScore::value(rule, score * scale);
    *derivative = FreeScore::derivative(rule, value);
    return exp2f(fmaf(value, kLog2e, row));
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
  s.rule = call.rule;
  s.tiles = backward_tiles(call);
  s.scale = call.scale;
  return s;
}

inline BackwardRows backward_strides(const AttentionRows& rows) {
  return {rows.batch, rows.row, rows.head};
}

}  // namespace engine::cuda
