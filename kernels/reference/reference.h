// Double-precision oracles: what every op of kernels/ops.h means, written slowly and separately
// from the kernels. Tests and benchmarks compare against them; nothing else links them.
//
// Operands are dense, row-major values already rounded to the type they are stored in. Results are
// not rounded, unless a parameter says so: the caller rounds them or allows for it. Dimension
// letters as in ops.h. Pure functions, callable from any thread; sizes that disagree throw
// Error{kInternal}.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/core/sampling.h"
#include "kernels/core/score_function.h"

namespace engine::reference {

using Values = std::vector<double>;
using View = std::span<const double>;

// `value` rounded to nearest, ties to even, in a floating-point `dtype`, subnormals and overflow
// included. Arithmetic alone: shares no code with quant/half.h.
double round_to(DType dtype, double value);

// (T, D): rows `ids` of table (V, D); a row of NaN for an id outside [0, V).
Values embed(View table, std::int64_t width, std::span<const std::int32_t> ids);

// (T, D) = x ÷ √(mean(x²) + eps) × weight; the quotient is rounded to `dtype` where one is given.
Values rmsnorm(View x, View weight, double eps, const DType* dtype = nullptr);

// (T, D) = (x − mean) ÷ √(variance + eps) × weight + bias over rows of D.
Values layernorm(View x, View weight, View bias, double eps);

// ½ x (1 + tanh(√(2 ÷ π) (x + 0.044715 x³))), elementwise.
Values gelu(View x);

// (S, N) = the chosen matrices of weight (E, N, K) by x (K).
Values gather_gemv(View x, View weight, std::span<const std::int32_t> chosen, std::int64_t experts);

// (T, N) = x (T, K) · weight (N, K)ᵀ (+ residual (T, N), which may be empty).
Values linear(View x, View weight, View residual, std::int64_t inputs);

// A matrix quantised by the rule of quant/int8.h; shares no code with it. `weights` are finite.
struct Int8Matrix {
  std::vector<std::int8_t> q;  // (N, K)
  Values scale;                // (N), as stored in bf16
  Values decoded;              // (N, K): q · scale
};
Int8Matrix int8_quantise(View weights, std::int64_t columns);

// (T, heads, Dh): "rotate half" at positions position + t, clamped to the table (P, Dh).
Values rope(View x, View table, std::int64_t heads, std::int64_t head_size, std::int64_t position);

// Writes rows (T, G, Dh) to cache (G, C, Dh) at positions position + t below C.
void kv_append(Values& cache, View rows, std::int64_t kv_heads, std::int64_t head_size,
               std::int64_t position);

struct AttentionProblem {
  std::int64_t tokens = 1, heads = 1, kv_heads = 1, head_size = 1;
  std::int64_t capacity = 1;  // C of the caches
  std::int64_t position = 0;
  double scale = 1.0;
  bool causal = true;
  std::int64_t window = 0;

  // The half-open range of keys that the query of token t sees; empty where end ≤ begin.
  std::int64_t first_key(std::int64_t t) const;
  std::int64_t end_key(std::int64_t t) const;
};

struct AttentionResult {
  Values out;  // (T, H, Dh)
  Values lse;  // (H, T)
};

// q (T, H, Dh), caches (G, C, Dh).
AttentionResult attention(const AttentionProblem& problem, View q, View k_cache, View v_cache);

// One sequence of a batch, with a score function (core/score_function.h), written out again here.
struct AttentionBatchProblem {
  std::int64_t queries = 1, keys = 1, heads = 1, kv_heads = 1, head_size = 1;
  std::int64_t position = 0;
  double scale = 1.0;
  bool causal = false;
  std::int64_t window = 0;
  ScoreKind kind = ScoreKind::kNoop;
  std::int64_t extent = 0;
  double cap = 1.0;
  std::vector<std::int32_t> document;  // kDocument: which one each position is in

  // Row of head h's key j in (K, G, Dh).
  std::size_t key_row(std::int64_t j, std::int64_t h) const {
    return static_cast<std::size_t>(j * kv_heads + h / (heads / kv_heads));
  }
};

// q (Q, H, Dh), k and v (K, G, Dh); out (Q, H, Dh), lse (H, Q).
AttentionResult attention_batch(const AttentionBatchProblem& problem, View q, View k, View v);

// The softmax's weights over all keys of query i, head h.
Values attention_weights(const AttentionBatchProblem& problem, View q, View k, std::int64_t i,
                         std::int64_t h);

struct AttentionGradients {
  Values dq, dk, dv;  // as q, k, v
};
// dout (Q, H, Dh).
AttentionGradients attention_backward(const AttentionBatchProblem& problem, View q, View k, View v,
                                      View dout);

// silu(gate) · up, elementwise.
Values silu_mul(View gate, View up);

// a + b, elementwise.
Values add(View a, View b);

// The probabilities of every id after all the filters of SampleCall (one-hot at temperature 0).
// `slack` moves the thresholds by that relative amount, outwards where positive: where the two
// directions differ, a decision is too close for fp32.
Values sample_distribution(View logits, std::span<const std::uint8_t> seen,
                           const SamplingParams& params, double slack = 0.0);

struct ExactToken {
  std::int32_t id = 0;
  double lead = 0.0;  // ln of the best score over the second best; infinite without a second
};

// The id that wins at `position`, the position of the new token: argmax of p ÷ e.
ExactToken sample_token(View probabilities, std::uint64_t seed, std::uint32_t position);

// The experts of every token: the `top_k` most probable of each row of logits (T, E), ties to the
// lowest index, and softmax weights renormalised over them.
struct Route {
  std::vector<std::int32_t> experts;  // (T, S)
  Values weights;                     // (T, S)
  // (T): logit of the last expert chosen less that of the best left out; infinite without one.
  Values margin;
};
Route moe_route(View logits, std::int64_t experts, std::int64_t top_k);

// (T, S, N) = x (T, S, K), or (T, 1, K), by the chosen matrices of weight (E, N, K). `chosen` is
// (T, S).
Values moe_linear(View x, View weight, std::span<const std::int32_t> chosen, std::int64_t top_k,
                  std::int64_t experts, std::int64_t inputs);

// (T, D) = residual + Σ_s weights (T, S) · y (T, S, D).
Values moe_combine(View y, View weights, View residual, std::int64_t top_k);

// The fused ops, composed of the above without any rounding in between.
struct AttentionInResult {
  Values q, k, v;  // (T, H, Dh), (T, G, Dh), (T, G, Dh)
};
AttentionInResult attention_in(View x, View norm, double eps, View qkv, View rope_table,
                               std::int64_t heads, std::int64_t head_size, std::int64_t position);
Values attention_out(View x, View attention, View output, std::int64_t inputs);
Values feed_forward(View x, View norm, double eps, View gate_up, View down);
// router (E, D), gate_up (E, 2 F, D), down (E, D, F).
Values moe_feed_forward(View x, View norm, double eps, View router, View gate_up, View down,
                        std::int64_t top_k);

// up (F, D), down (N, F).
struct MlpLayerNorm {
  View up, up_bias, inner_weight, inner_bias, down, down_bias, outer_weight, outer_bias;
  double eps = 1e-5;
  bool gelu = false;
};
Values mlp_layer_norm(View x, const MlpLayerNorm& mlp);

}  // namespace engine::reference
