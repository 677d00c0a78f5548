// What the kernels of attention_batch share: a batch as they get it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/core/score_function.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {

// Elements from one sequence, row or head to the next.
struct BatchStrides {
  std::int64_t batch, row, head;
};

// One sequence: its plane of the tensors, its first rows there, and how many it has.
struct BatchSequence {
  int plane, first_query, first_key, queries, keys;
};

struct AttentionBatchArguments {
  void* out;                               // (B, Q, H, Dh)
  const void* q;                           // (B, Q, H, Dh)
  const void *k, *v;                       // (B, K, G, Dh)
  float* lse;                              // (B, H, Q) or null
  const int *query_offsets, *key_offsets;  // (N + 1), of a ragged batch, or null
  const int* position;                     // (1) or null
  BatchStrides out_stride, q_stride, k_stride, v_stride;
  std::int64_t lse_batch, lse_head;
  int sequences, heads, group, head_size, queries, keys;  // a ragged batch: the most
  float scale;
  ScoreRule rule;
  bool masks, sloped, affine;  // what the rule's row of the table says

  // Lengths that pass the batch's own bounds are cut to them.
  __device__ BatchSequence sequence(int n) const {
    if (query_offsets == nullptr) return {n, 0, 0, queries, keys};
    const int q0 = query_offsets[n], k0 = key_offsets[n];
    return {0, q0, k0, max(0, min(query_offsets[n + 1] - q0, queries)),
            max(0, min(key_offsets[n + 1] - k0, keys))};
  }
  __device__ int shift() const { return position != nullptr ? *position : 0; }
  // The keys of [0, count) that the query at position p sees.
  __device__ KeyInterval seen(int p, int count) const {
    return masks ? visible_keys(rule, p, count) : KeyInterval{0, count};
  }
  // Those that some query at [first, last] sees: what lies outside is never read.
  __device__ KeyInterval block_keys(int first, int last, int count) const {
    return {max(seen(first, count).begin, 0), min(seen(last, count).end, count)};
  }
  __device__ float slope(int head) const { return sloped ? score_slope(rule, head) : 0.0f; }
};

inline AttentionBatchArguments batch_arguments(const AttentionBatchCall& call) {
  AttentionBatchArguments a{};
  const auto strides = [](const Tensor& t) {
    return BatchStrides{t.stride(0), t.stride(1), t.stride(2)};
  };
  a.out = call.out.data, a.q = call.q.data, a.k = call.k.data, a.v = call.v.data;
  a.lse = call.lse.as<float>();
  a.query_offsets = call.query_offsets.as<int>(), a.key_offsets = call.key_offsets.as<int>();
  a.position = call.position.as<int>();
  a.out_stride = strides(call.out), a.q_stride = strides(call.q);
  a.k_stride = strides(call.k), a.v_stride = strides(call.v);
  a.lse_batch = call.lse ? call.lse.stride(0) : 0, a.lse_head = call.lse ? call.lse.stride(1) : 0;
  a.sequences = static_cast<int>(call.sequences());
  a.heads = static_cast<int>(call.q.size(2));
  a.group = static_cast<int>(call.q.size(2) / call.k.size(2));
  a.head_size = static_cast<int>(call.q.size(3));
  a.queries = static_cast<int>(call.queries()), a.keys = static_cast<int>(call.keys());
  a.scale = call.scale;
  a.rule = call.rule();
  a.masks = score_masks(a.rule);
  a.sloped = score_is_sloped(a.rule.kind), a.affine = score_is_affine(a.rule.kind);
  return a;
}

inline constexpr float kLog2OfE = 1.4426950408889634f, kNaturalOf2 = 0.6931471805599453f;

}  // namespace engine::cuda
