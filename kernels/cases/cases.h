// The table of kernel problems that tests and benchmarks both read: shapes, types, and the bytes
// and floating-point operations of each.
//
// Sizes: 1, odd, not a multiple of any vector or tile, and those of real models. `large` marks the
// ones that take long without vector instructions; a test may leave them out there and must say so.
// Tables are constants; everything is callable from any thread. Dimension letters as in ops.h.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "kernels/core/dtype.h"
#include "quant/format.h"

namespace engine::cases {

// What a problem costs at the least: every operand moved once, a multiply-add counted as two.
struct Cost {
  std::int64_t bytes = 0;
  std::int64_t flops = 0;
};

inline constexpr DType kFloatTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

// embed: (T) ids into a table (V, D).
struct EmbedCase {
  std::int64_t tokens, width, vocabulary;
  bool large = false;
  std::string name() const;
  Cost cost(DType dtype) const;
};
std::span<const EmbedCase> embed_cases();

// rmsnorm, add and silu_mul: (T, D).
struct RowsCase {
  std::int64_t tokens, width;
  std::string name() const;
  Cost rmsnorm_cost(DType dtype) const;
  Cost add_cost(DType dtype) const;
  Cost silu_mul_cost(DType dtype) const;
};
std::span<const RowsCase> rows_cases();

// linear: (T, K) by (N, K).
struct LinearCase {
  std::int64_t tokens, outputs, inputs;
  bool large = false;
  std::string name() const;
  Cost cost(DType dtype, bool f32_out, bool residual) const;
};
std::span<const LinearCase> linear_cases();

// rope: (T, heads, Dh) from `position` on.
struct RopeCase {
  std::int64_t tokens, heads, head_size, position;
  std::string name() const;
  Cost cost(DType dtype) const;
};
std::span<const RopeCase> rope_cases();

// kv_append: (T, G, Dh) into (G, C, Dh) from `position` on.
struct KvAppendCase {
  std::int64_t tokens, kv_heads, head_size, capacity, position;
  std::string name() const;
  Cost cost(DType dtype) const;
};
std::span<const KvAppendCase> kv_append_cases();

// attention: T queries of H heads over caches (G, C, Dh), the step beginning at `position`.
struct AttentionCase {
  std::int64_t tokens, heads, kv_heads, head_size, position;
  std::int64_t slack = 0;  // bound − (position + T)
  std::int64_t window = 0;
  bool causal = true;
  bool large = false;
  std::int64_t bound() const { return position + tokens + slack; }
  std::int64_t capacity() const { return bound() + 3; }
  std::string name() const;
  Cost cost(DType dtype) const;  // the keys some query sees, moved once; the pairs seen, computed
};
std::span<const AttentionCase> attention_cases();

// The fused ops of one decoder block.
struct BlockCase {
  std::int64_t tokens, width, heads, kv_heads, head_size, inner, position;
  bool large = false;
  std::int64_t capacity() const { return position + tokens + 2; }
  std::string name() const;
  Cost attention_in_cost(DType dtype) const;
  Cost attention_out_cost(DType dtype) const;
  Cost feed_forward_cost(DType dtype) const;
};
std::span<const BlockCase> block_cases();

// The ops of a mixture of experts: `top_k` of `experts` for each token, width D, feed-forward F.
struct MoeCase {
  std::int64_t tokens, experts, top_k, width, inner;
  // Every token chooses the same experts, so that the others stay empty.
  bool same_experts = false;
  bool large = false;
  std::string name() const;
  // Experts that any token chooses, at the most.
  std::int64_t touched() const;
  Cost route_cost() const;
  // Up: x (T, 1, D) by matrices (2 F, D); down: x (T, S, F) by (D, F). Touched experts count once.
  Cost up_cost(DType dtype, QuantFormat format) const;
  Cost down_cost(DType dtype, QuantFormat format) const;
  Cost combine_cost(DType dtype) const;
  Cost feed_forward_cost(DType dtype, QuantFormat format) const;
};
std::span<const MoeCase> moe_cases();

// sample: one row of V logits.
struct SampleCase {
  std::int64_t vocabulary;
  std::string name() const;
  Cost cost() const;
};
std::span<const SampleCase> sample_cases();

}  // namespace engine::cases
