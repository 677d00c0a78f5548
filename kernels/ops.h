// Everything a model graph may ask of a backend.
//
// Every call is plain data — tensors, weights, scalars — so that a recorder can keep it and a
// backend can lower a whole step of calls later. Every op is asynchronous on its backend's stream,
// allocates nothing and synchronises nothing. What changes from step to step (token ids, position,
// sampling parameters and history) is read from device tensors; what a call holds by value
// (addresses, shapes, bounds) stays as it is when a recorded step is replayed.
//
// Dimension letters: T tokens of the step, D model width, H query heads, G key/value heads, Dh head
// size, F feed-forward width, V vocabulary, C capacity of the cache in positions, N and K outputs
// and inputs of a linear, E experts, S experts chosen for a token.
//
// Types: x, activations, norms and caches share one floating-point dtype, the compute type of the
// session (f32, f16 or bf16); norms, softmax, rotary embedding and every accumulation are fp32 (and
// fp32 arithmetic never uses TF32). Logits are f32. Tensors have dense rows (innermost stride 1);
// other strides are free where a comment says "strided". Bad operands throw Error{kInternal} before
// anything is launched.
#pragma once

#include <cstdint>
#include <variant>

#include "kernels/core/sampling.h"
#include "kernels/core/score_function.h"
#include "kernels/core/tensor.h"
#include "kernels/core/weight.h"
#include "kernels/core/workspace.h"

namespace engine {

// out[t, :] = table[ids[t], :], rounded to out's dtype. Ids outside [0, V) are the caller's error:
// the row written is then NaN, which the sampling step reports.
struct EmbedCall {
  Tensor out;    // (T, D)
  Weight table;  // (V, D), of a plain format
  Tensor ids;    // (T) i32
};

// out = (x ÷ √(mean(x²) + eps), rounded to the activation dtype) × weight, rounded again. The order
// is that of Hugging Face's LlamaRMSNorm; mean and root are fp32. out may be x itself.
struct RmsNormCall {
  Tensor out;     // (T, D)
  Tensor x;       // (T, D) strided
  Tensor weight;  // (D)
  float eps = 1e-5f;
};

// out = x · Wᵀ (+ residual or bias), accumulated in fp32 and rounded once. residual may be out
// itself.
struct LinearCall {
  Tensor out;        // (T, N) strided; x's dtype or f32
  Tensor x;          // (T, K) strided
  Weight weight;     // (N, K)
  Tensor residual;   // (T, N) strided, out's dtype; absent: nothing is added
  Tensor bias = {};  // (N), out's dtype: the same row for every token; not beside a residual

  // The same call with the bias as a residual whose rows are all one.
  LinearCall with_bias_as_residual() const;
};

// out = (x − mean(x)) ÷ √(var(x) + eps) × weight + bias over each row, all of it in fp32 and
// rounded once; var is the population's, from the centred values (torch.nn.LayerNorm). out may be x
// itself.
struct LayerNormCall {
  Tensor out;           // (T, D) strided
  Tensor x;             // (T, D) strided
  Tensor weight, bias;  // (D), both f32 or both of x's dtype
  float eps = 1e-5f;
};

// out = ½ x (1 + tanh(√(2 ÷ π) (x + 0.044715 x³))) in fp32, rounded once (Hendrycks and Gimpel,
// "Gaussian Error Linear Units", 2016). out may be x itself.
struct GeluCall {
  Tensor out, x;  // (T, D) strided
};

// out[s, :] = W[experts[s]] · x: one vector by some of a stack of matrices, read where they lie;
// accumulated in fp32 and rounded once. An int8 weight without scales is the raw matrix. An id
// outside [0, E) throws Error{kInternal} on the CPU; on a device its row of out is NaN.
struct GatherGemvCall {
  Tensor out;              // (S, N)
  Tensor x;                // (K)
  Weight weight;           // (E · N, K): the matrices, one below the other
  Tensor experts;          // (S) i32; absent: every matrix in its order, S = E
  std::int64_t count = 1;  // E
};

// Rotary position embedding in Hugging Face's "rotate half" pairing: for i < Dh/2 and the position
// p = position + t,
//   out[i]        = x[i] · cos[p, i] − x[i + Dh/2] · sin[p, i]
//   out[i + Dh/2] = x[i + Dh/2] · cos[p, i] + x[i] · sin[p, i]
// in fp32. out may be x itself. Positions at or past P are clamped to P − 1; the session never
// steps there.
struct RopeCall {
  Tensor out;       // (T, heads, Dh) strided
  Tensor x;         // (T, heads, Dh) strided
  Tensor table;     // (P, Dh) f32: cos in [0, Dh/2), sin in [Dh/2, Dh)
  Tensor position;  // (1) i32: the position of token 0 of the step
};

// k_cache[g, position + t, :] = k[t, g, :], and v alike. Rows at or past C are not written.
struct KvAppendCall {
  Tensor k_cache, v_cache;  // (G, C, Dh) strided
  Tensor k, v;              // (T, G, Dh) strided
  Tensor position;          // (1) i32
};

// Softmax attention of T queries over a cache, never materialising T × C. With q = position + t the
// position of a query and j that of a key, the query sees keys with 0 ≤ j ≤ q (causal), or
// 0 ≤ j < position + T (not causal), and q − j < window where window > 0:
//   out[t, h] = Σ_j softmax_j(scale · q[t, h] · k[g, j]) v[g, j],   g = h ÷ (H ÷ G).
// The length comes from the device, so `bound` only limits what may be launched: position + T ≤
// bound ≤ C. Steps with the same T and bound are bitwise the same eager or replayed. A query that
// sees no key gives zeros and lse = −∞.
struct AttentionCall {
  Tensor out;               // (T, H, Dh) strided
  Tensor q;                 // (T, H, Dh) strided
  Tensor k_cache, v_cache;  // (G, C, Dh) strided
  Tensor position;          // (1) i32
  std::int64_t bound = 0;   // host bound of position + T
  float scale = 1.0f;
  bool causal = true;
  std::int64_t window = 0;  // 0: no window
  Tensor lse;               // (H, T) f32, natural log; absent: not wanted
};

// A score function of attention (core/score_function.h) and its parameters.
struct ScoreFunction {
  ScoreKind kind = ScoreKind::kNoop;
  std::int64_t extent = 0;  // kSlidingWindow (≥ 1), kPrefixLm
  float cap = 0.0f;         // kSoftCap (> 0)
  Tensor spans;  // kDocument: (P, 2) i32, [first, end) of the document that position p is in
};

// Softmax attention of a batch of sequences, dense or ragged, with a score function. The query in
// row i of a sequence stands at position p = position + i, keys at their rows; it sees keys j in
// [0, K) that the rules allow: j ≤ p where causal, p − j < window where window > 0, and those of
// the score function's mask. With y(s, h, p, j) the score function's value,
//   out[b, i, h] = Σ_j softmax_j(y(scale · q[b, i, h] · k[b, j, g], h, p, j)) v[b, j, g],
// g = h ÷ (H ÷ G). A query that sees no key gives zeros and lse = −∞.
//
// Dense: query_offsets and key_offsets are absent, q is (B, Q, H, Dh), k and v (B, K, G, Dh), lse
// (B, H, Q). Ragged: B is 1 in every tensor, whose rows are those of all sequences, one after the
// other: sequence n has rows [query_offsets[n], query_offsets[n + 1]) of q and out and
// [key_offsets[n], key_offsets[n + 1]) of k and v. Offsets start at 0, never fall, and end at most
// at the tensors' rows; a sequence may have no queries, or no keys (then its outputs are zero). No
// sequence has more than max_queries or max_keys rows: that bounds what is launched.
// Any axis may have any stride, but rows of Dh are dense. (T, H, Dh) is (1, T, H, Dh), a cache
// (G, C, Dh) is (1, C, G, Dh) with the strides of the cache.
struct AttentionBatchCall {
  Tensor out, q;                               // (B, Q, H, Dh) strided
  Tensor k, v;                                 // (B, K, G, Dh) strided
  Tensor query_offsets, key_offsets;           // (N + 1) i32 on the device, both or neither
  std::int64_t max_queries = 0, max_keys = 0;  // of a ragged batch's sequence
  Tensor position;                             // (1) i32; absent: 0
  float scale = 1.0f;
  bool causal = false;
  std::int64_t window = 0;  // 0: no window
  ScoreFunction score;
  Tensor lse;  // (B, H, Q) f32, natural log; absent: not wanted

  bool ragged() const { return static_cast<bool>(query_offsets); }
  // Sequences, and the most rows that one has.
  std::int64_t sequences() const { return ragged() ? query_offsets.size(0) - 1 : q.size(0); }
  std::int64_t queries() const { return ragged() ? max_queries : q.size(1); }
  std::int64_t keys() const { return ragged() ? max_keys : k.size(1); }
  ScoreRule rule() const;
};

// The gradients of attention_batch: with P the softmax's weights, y′ the score function's
// derivative and δ[b, i, h] = Σ_d dout · out,
//   dV = Pᵀ dout,   dS = P · (dout Vᵀ − δ) · y′,   dQ = scale · dS K,   dK = scale · dSᵀ Q,
// summed over the H ÷ G heads of a group for dk and dv. `forward` holds what the forward was asked
// for, with out and lse as it left them. What no query sees gets zeros. Where `deterministic`, the
// same bits on every run; else sums may come in any order.
struct AttentionGradCall {
  AttentionBatchCall forward;
  Tensor dout;    // as forward.out, its own strides
  Tensor dq;      // as q
  Tensor dk, dv;  // as k
  bool deterministic = true;
};

// out[n, m] = scale · a[n, m] · b[n, m]ᵀ for every n and m: (X, K) by (Y, K)ᵀ, or by (K, Y) where
// b_rows_summed; accumulated in fp32 and rounded once.
struct BatchMatmulCall {
  Tensor out;  // (N, M, X, Y) strided
  Tensor a;    // (N, M, X, K) strided
  Tensor b;    // (N, M, Y, K) strided; with b_rows_summed (N, M, K, Y)
  float scale = 1.0f;
  bool b_rows_summed = false;
};

// out[b, h, i, :] = softmax over j of y(x[b, h, i, j], h, position + i, j), in fp32, rounded once;
// zeros where nothing is seen. out may be x.
struct ScoreSoftmaxCall {
  Tensor out;       // (B, H, Q, K) strided
  Tensor x;         // (B, H, Q, K) strided
  Tensor position;  // (1) i32; absent: 0
  bool causal = false;
  std::int64_t window = 0;
  ScoreFunction score;

  ScoreRule rule() const;
};

// out = silu(gate) · up, silu(z) = z ÷ (1 + exp(−z)), in fp32, rounded once.
struct SiluMulCall {
  Tensor out;       // (T, F) strided
  Tensor gate, up;  // (T, F) strided
};

// out = a + b in fp32, rounded once. out may be a or b.
struct AddCall {
  Tensor out, a, b;  // (T, D) strided
};

// Draws the next token from one row of logits and prepares the next step:
//   repetition penalty for every id with seen[id] ≠ 0 (l > 0: l ÷ r, else l × r) → ÷ temperature →
//   top-k (ties with the k-th are kept) → top-p (the fewest most probable ids whose mass reaches
//   top_p, a share of what top-k left; ids tied with the last are kept) → min-p (p ≥ min_p · max p)
//   → argmax of p ÷ e with e = −ln u, u the Philox draw of (seed, position of the new token, id);
//   ties to the lowest id.
// At temperature 0 the argmax of the penalised logits, ties to the lowest id. Where any logit is
// NaN or infinite, sampled.not_finite is set and the id is 0.
// Then next_ids[0] = id, seen[id] = 1, position += advance: a replayed decode step needs no host.
// With several places in `sampled` the host may read one token while the next is drawn.
struct SampleCall {
  Tensor logits;             // (V) f32
  Tensor params;             // one SamplingParams, as (sizeof) u8
  Tensor seen;               // (V) u8
  Tensor position;           // (1) i32, of token 0 of this step
  Tensor next_ids;           // (≥ 1) i32
  Tensor sampled;            // R SampledTokens, as (2 · R) i32: written is that of position % R
  std::int32_t advance = 1;  // T of this step
};

// Fused: the way into attention.
//   h = rmsnorm(x); [q k v] = h · Wqkvᵀ; q, k = rope(q, k); append k, v to the cache.
struct AttentionInCall {
  Tensor q;     // out (T, H, Dh)
  Tensor x;     // (T, D)
  Tensor norm;  // (D)
  float eps = 1e-5f;
  Weight qkv;               // ((H + 2 G) · Dh, D): q rows, then k rows, then v rows
  Tensor rope_table;        // (P, Dh) f32
  Tensor position;          // (1) i32
  Tensor k_cache, v_cache;  // (G, C, Dh)
};

// Fused: the way out of attention. x += attention · Woᵀ.
struct AttentionOutCall {
  Tensor x;          // (T, D), in and out
  Tensor attention;  // (T, H · Dh)
  Weight output;     // (D, H · Dh)
};

// Fused: the gated feed-forward. x += (silu(h · Wgateᵀ) · (h · Wupᵀ)) · Wdownᵀ with h = rmsnorm(x).
struct FeedForwardCall {
  Tensor x;     // (T, D), in and out
  Tensor norm;  // (D)
  float eps = 1e-5f;
  Weight gate_up;  // (2 F, D): gate rows, then up rows
  Weight down;     // (D, F)
};

// Chooses experts: p = softmax(logits) over all E in fp32, the S largest in descending order (ties
// to the lowest index), weights renormalised: w_s = p_s ÷ Σ p over the chosen. Where a logit is NaN
// the weights are NaN and the experts still lie in [0, E).
struct MoeRouteCall {
  Tensor experts;  // (T, S) i32
  Tensor weights;  // (T, S) f32
  Tensor logits;   // (T, E) f32
};

// out[t, s, :] = x[t, s or 0, :] · W[experts[t, s]]ᵀ, accumulated in fp32 and rounded once.
struct MoeLinearCall {
  Tensor out;              // (T, S, N)
  Tensor x;                // (T, S, K), or (T, 1, K) where the experts of a token share its row
  Weight weight;           // (E · N, K): the experts' matrices, one below the other
  Tensor experts;          // (T, S) i32
  std::int64_t count = 0;  // E
};

// out[t, :] = residual[t, :] + Σ_s weights[t, s] · y[t, s, :], in fp32, in the order of s, rounded
// once. out may be residual.
struct MoeCombineCall {
  Tensor out;       // (T, D)
  Tensor y;         // (T, S, D)
  Tensor weights;   // (T, S) f32
  Tensor residual;  // (T, D)
};

// Fused: the feed-forward of a mixture of experts. With h = rmsnorm(x) and the S experts that the
// router h · Wrᵀ (logits in f32) chooses,
//   x += Σ_s w_s · (silu(h · Wgate_sᵀ) · (h · Wup_sᵀ)) · Wdown_sᵀ.
struct MoeFeedForwardCall {
  Tensor x;     // (T, D), in and out
  Tensor norm;  // (D)
  float eps = 1e-5f;
  Weight router;             // (E, D)
  Weight gate_up;            // (E · 2 F, D): of each expert gate rows, then up rows
  Weight down;               // (E · D, F)
  std::int64_t experts = 0;  // E
  std::int64_t top_k = 0;    // S
};

// Fused: two linears with biases, each followed by a layer norm.
//   h = x · W₁ᵀ + b₁; h = gelu(h) where `gelu`; h = layernorm(h); out = layernorm(h · W₂ᵀ + b₂).
struct MlpLayerNormCall {
  Tensor out;                       // (T, N)
  Tensor x;                         // (T, D)
  Weight up;                        // W₁ (F, D)
  Tensor up_bias;                   // b₁ (F)
  Tensor inner_weight, inner_bias;  // (F) of the first norm
  Weight down;                      // W₂ (N, F)
  Tensor down_bias;                 // b₂ (N)
  Tensor outer_weight, outer_bias;  // (N) of the second norm
  float eps = 1e-5f;
  bool gelu = false;
};

// attention_batch of a dense batch composed of primitives: scores, softmax and weighted values,
// each rounded to the type and held whole, (B, H, Q, K) twice in `scratch`. With G < H, one product
// per key/value head. Needs no lse. What a fused attention is compared with.
class Ops;
void attention_composed(Ops& ops, const AttentionBatchCall& call, Workspace scratch);

class Ops {
 public:
  virtual ~Ops() = default;

  virtual void embed(const EmbedCall& call) = 0;
  virtual void rmsnorm(const RmsNormCall& call) = 0;
  virtual void linear(const LinearCall& call, Workspace scratch) = 0;
  virtual void rope(const RopeCall& call) = 0;
  virtual void kv_append(const KvAppendCall& call) = 0;
  virtual void attention(const AttentionCall& call, Workspace scratch) = 0;
  virtual void silu_mul(const SiluMulCall& call) = 0;
  virtual void add(const AddCall& call) = 0;
  virtual void layernorm(const LayerNormCall& call) = 0;
  virtual void gelu(const GeluCall& call) = 0;
  virtual void gather_gemv(const GatherGemvCall& call) = 0;
  virtual void sample(const SampleCall& call) = 0;
  virtual void moe_route(const MoeRouteCall& call) = 0;
  virtual void moe_linear(const MoeLinearCall& call, Workspace scratch) = 0;
  virtual void moe_combine(const MoeCombineCall& call) = 0;
  virtual void batch_matmul(const BatchMatmulCall& call) = 0;
  virtual void score_softmax(const ScoreSoftmaxCall& call) = 0;
  virtual void attention_batch(const AttentionBatchCall& call, Workspace scratch) = 0;
  virtual void attention_backward(const AttentionGradCall& call, Workspace scratch) = 0;

  // Bytes of scratch that this backend's attention takes for `call`; a pure function of its shapes,
  // dtype and bound.
  virtual std::size_t attention_scratch_bytes(const AttentionCall& call) const = 0;
  // The same of linear and moe_linear.
  virtual std::size_t linear_scratch_bytes(const LinearCall& call) const = 0;
  virtual std::size_t moe_linear_scratch_bytes(const MoeLinearCall& call) const = 0;
  // The same of attention_batch and attention_backward.
  virtual std::size_t attention_batch_scratch_bytes(const AttentionBatchCall& call) const = 0;
  virtual std::size_t attention_backward_scratch_bytes(const AttentionGradCall& call) const = 0;

  // The fused ops. The bodies in ops.cc, composed of the primitives above, are their definition,
  // their oracle and the fallback; a backend overrides one where fusing pays and then needs no more
  // scratch than the body here.
  virtual void attention_in(const AttentionInCall& call, Workspace scratch);
  virtual void attention_out(const AttentionOutCall& call, Workspace scratch);
  virtual void feed_forward(const FeedForwardCall& call, Workspace scratch);
  virtual void moe_feed_forward(const MoeFeedForwardCall& call, Workspace scratch);
  virtual void mlp_layer_norm(const MlpLayerNormCall& call, Workspace scratch);

 protected:
  // Parts of the body of mlp_layer_norm, for backends that fuse another: all behind the inner
  // activations (T, F), as up and GELU left them; and the last norm.
  void mlp_behind_inner(const MlpLayerNormCall& call, const Tensor& inner, Workspace scratch);
  void layernorm_of_mlp(const MlpLayerNormCall& call);
};

// Any call, as a recorder keeps it.
using Call =
    std::variant<EmbedCall, RmsNormCall, LinearCall, RopeCall, KvAppendCall, AttentionCall,
                 SiluMulCall, AddCall, SampleCall, MoeRouteCall, MoeLinearCall, MoeCombineCall,
                 AttentionInCall, AttentionOutCall, FeedForwardCall, MoeFeedForwardCall,
                 BatchMatmulCall, ScoreSoftmaxCall, AttentionBatchCall, AttentionGradCall,
                 LayerNormCall, GeluCall, GatherGemvCall, MlpLayerNormCall>;

// Runs one recorded call on `ops`. `scratch` is what the caller passed when it was recorded.
void run_call(Ops& ops, const Call& call, Workspace scratch);

// Operand checks shared by every backend: shapes, dtypes and dense rows as the comments above say.
// Throws Error{kInternal} naming the op.
void check_call(const EmbedCall& call);
void check_call(const RmsNormCall& call);
void check_call(const LinearCall& call);
void check_call(const RopeCall& call);
void check_call(const KvAppendCall& call);
void check_call(const AttentionCall& call);
void check_call(const SiluMulCall& call);
void check_call(const AddCall& call);
void check_call(const SampleCall& call);
void check_call(const MoeRouteCall& call);
void check_call(const MoeLinearCall& call);
void check_call(const MoeCombineCall& call);
void check_call(const AttentionInCall& call);
void check_call(const AttentionOutCall& call);
void check_call(const FeedForwardCall& call);
void check_call(const MoeFeedForwardCall& call);
void check_call(const BatchMatmulCall& call);
void check_call(const ScoreSoftmaxCall& call);
void check_call(const AttentionBatchCall& call);
void check_call(const AttentionGradCall& call);
void check_call(const LayerNormCall& call);
void check_call(const GeluCall& call);
void check_call(const GatherGemvCall& call);
void check_call(const MlpLayerNormCall& call);

}  // namespace engine
