// The definitions of the fused ops, composed of primitives, and the recorder's dispatch.
#include "kernels/ops.h"

#include <algorithm>
#include <type_traits>
#include <utility>

namespace engine {

void Ops::attention_in(const AttentionInCall& call, Workspace scratch) {
  check_call(call);
  const std::int64_t tokens = call.x.size(0), heads = call.q.size(1), head_size = call.q.size(2);
  const std::int64_t kv_heads = call.k_cache.size(0);
  const Tensor hidden = scratch.take(call.x.dtype, call.x.shape);
  const Tensor joined = scratch.take(call.x.dtype, {tokens, call.qkv.rows});
  rmsnorm({.out = hidden, .x = call.x, .weight = call.norm, .eps = call.eps});
  linear({.out = joined, .x = hidden, .weight = call.qkv, .residual = {}}, scratch);

  const Tensor by_head = joined.split(1, head_size);  // (T, H + 2 G, Dh)
  const Tensor q = by_head.slice(1, 0, heads);
  const Tensor k = by_head.slice(1, heads, kv_heads);
  const Tensor v = by_head.slice(1, heads + kv_heads, kv_heads);
  rope({.out = call.q, .x = q, .table = call.rope_table, .position = call.position});
  rope({.out = k, .x = k, .table = call.rope_table, .position = call.position});
  kv_append({.k_cache = call.k_cache,
             .v_cache = call.v_cache,
             .k = k,
             .v = v,
             .position = call.position});
}

void Ops::attention_out(const AttentionOutCall& call, Workspace scratch) {
  check_call(call);
  linear({.out = call.x, .x = call.attention, .weight = call.output, .residual = call.x}, scratch);
}

void Ops::feed_forward(const FeedForwardCall& call, Workspace scratch) {
  check_call(call);
  const std::int64_t tokens = call.x.size(0), width = call.down.columns;
  const Tensor hidden = scratch.take(call.x.dtype, call.x.shape);
  const Tensor gate_up = scratch.take(call.x.dtype, {tokens, 2 * width});
  const Tensor gate = gate_up.slice(1, 0, width), up = gate_up.slice(1, width, width);
  rmsnorm({.out = hidden, .x = call.x, .weight = call.norm, .eps = call.eps});
  linear({.out = gate_up, .x = hidden, .weight = call.gate_up, .residual = {}}, scratch);
  silu_mul({.out = gate, .gate = gate, .up = up});
  linear({.out = call.x, .x = gate, .weight = call.down, .residual = call.x}, scratch);
}

void Ops::moe_feed_forward(const MoeFeedForwardCall& call, Workspace scratch) {
  check_call(call);
  const std::int64_t tokens = call.x.size(0), inner = call.down.columns, top_k = call.top_k;
  const Tensor hidden = scratch.take(call.x.dtype, call.x.shape);
  const Tensor logits = scratch.take(DType::kF32, {tokens, call.experts});
  const Tensor experts = scratch.take(DType::kI32, {tokens, top_k});
  const Tensor weights = scratch.take(DType::kF32, {tokens, top_k});
  const Tensor gate_up = scratch.take(call.x.dtype, {tokens, top_k, 2 * inner});
  const Tensor product = scratch.take(call.x.dtype, {tokens, top_k, inner});
  const Tensor outputs = scratch.take(call.x.dtype, {tokens, top_k, call.x.size(1)});
  rmsnorm({.out = hidden, .x = call.x, .weight = call.norm, .eps = call.eps});
  linear({.out = logits, .x = hidden, .weight = call.router, .residual = {}}, scratch);
  moe_route({.experts = experts, .weights = weights, .logits = logits});
  moe_linear({.out = gate_up,
              .x = hidden.split(0, 1),
              .weight = call.gate_up,
              .experts = experts,
              .count = call.experts},
             scratch);
  const Tensor rows = gate_up.reshape({tokens * top_k, 2 * inner});
  silu_mul({.out = product.reshape({tokens * top_k, inner}),
            .gate = rows.slice(1, 0, inner),
            .up = rows.slice(1, inner, inner)});
  moe_linear({.out = outputs,
              .x = product,
              .weight = call.down,
              .experts = experts,
              .count = call.experts},
             scratch);
  moe_combine({.out = call.x, .y = outputs, .weights = weights, .residual = call.x});
}

namespace {

ScoreRule make_rule(const ScoreFunction& score, std::int64_t heads, bool causal,
                    std::int64_t window) {
  constexpr std::int64_t kMost = 0x3fffffff;
  return {.kind = score.kind,
          .causal = causal,
          .window = static_cast<int>(std::min(window, kMost)),
          .extent = static_cast<int>(std::min(score.extent, kMost)),
          .cap = score.cap,
          .heads = static_cast<int>(heads),
          .spans = score.spans.as<std::int32_t>(),
          .span_count = score.spans ? static_cast<int>(score.spans.size(0)) : 0};
}

Tensor swap_axes(Tensor tensor, int a, int b) {
  std::swap(tensor.shape[a], tensor.shape[b]);
  std::swap(tensor.strides[static_cast<std::size_t>(a)],
            tensor.strides[static_cast<std::size_t>(b)]);
  return tensor;
}

// Every `step`-th head of (B, rows, H, Dh), from `first`, as (B, H ÷ step, rows, Dh).
Tensor heads_of(const Tensor& tensor, std::int64_t first, std::int64_t step) {
  const Tensor grouped = swap_axes(tensor, 1, 2);
  Tensor heads = grouped.slice(1, first, 1);
  heads.shape[1] = grouped.size(1) / step;
  heads.strides[1] = grouped.stride(1) * step;
  return heads;
}

}  // namespace

ScoreRule AttentionBatchCall::rule() const { return make_rule(score, q.size(2), causal, window); }
ScoreRule ScoreSoftmaxCall::rule() const { return make_rule(score, x.size(1), causal, window); }

void attention_composed(Ops& ops, const AttentionBatchCall& call, Workspace scratch) {
  check_call(call);
  ENGINE_CHECK(!call.ragged(), ErrorKind::kUnsupported,
               "attention composed of primitives: a ragged batch");
  const std::int64_t heads = call.q.size(2), kv_heads = call.k.size(2), group = heads / kv_heads;
  const Tensor scores =
      scratch.take(call.q.dtype, {call.q.size(0), heads, call.q.size(1), call.k.size(1)});
  const Tensor weights = scratch.take(call.q.dtype, scores.shape);
  const auto every = [&](Tensor tensor, std::int64_t first) {  // (B, H, ·, ·)
    Tensor part = tensor.slice(1, first, 1);
    part.shape[1] = kv_heads;
    part.strides[1] = tensor.stride(1) * group;
    return part;
  };
  for (std::int64_t r = 0; r < group; ++r) {
    ops.batch_matmul({.out = every(scores, r),
                      .a = heads_of(call.q, r, group),
                      .b = swap_axes(call.k, 1, 2),
                      .scale = call.scale,
                      .b_rows_summed = false});
  }
  ops.score_softmax({.out = weights,
                     .x = scores,
                     .position = call.position,
                     .causal = call.causal,
                     .window = call.window,
                     .score = call.score});
  for (std::int64_t r = 0; r < group; ++r) {
    ops.batch_matmul({.out = heads_of(call.out, r, group),
                      .a = every(weights, r),
                      .b = swap_axes(call.v, 1, 2),
                      .scale = 1.0f,
                      .b_rows_summed = true});
  }
}

void Ops::mlp_layer_norm(const MlpLayerNormCall& call, Workspace scratch) {
  check_call(call);
  const Tensor inner = scratch.take(call.x.dtype, {call.x.size(0), call.up.rows});
  linear({.out = inner, .x = call.x, .weight = call.up, .residual = {}, .bias = call.up_bias},
         scratch);
  if (call.gelu) gelu({.out = inner, .x = inner});
  mlp_behind_inner(call, inner, scratch);
}

void Ops::mlp_behind_inner(const MlpLayerNormCall& call, const Tensor& inner, Workspace scratch) {
  layernorm({.out = inner,
             .x = inner,
             .weight = call.inner_weight,
             .bias = call.inner_bias,
             .eps = call.eps});
  linear({.out = call.out, .x = inner, .weight = call.down, .residual = {}, .bias = call.down_bias},
         scratch);
  layernorm_of_mlp(call);
}

void Ops::layernorm_of_mlp(const MlpLayerNormCall& call) {
  layernorm({.out = call.out,
             .x = call.out,
             .weight = call.outer_weight,
             .bias = call.outer_bias,
             .eps = call.eps});
}

LinearCall LinearCall::with_bias_as_residual() const {
  LinearCall call = *this;
  if (!bias) return call;
  call.residual = bias;
  call.residual.shape = out.shape;
  call.residual.strides = {0, 1};
  call.bias = {};
  return call;
}

void run_call(Ops& ops, const Call& call, Workspace scratch) {
  std::visit(
      [&](const auto& c) {
        using C = std::decay_t<decltype(c)>;
        if constexpr (std::is_same_v<C, EmbedCall>) ops.embed(c);
        if constexpr (std::is_same_v<C, RmsNormCall>) ops.rmsnorm(c);
        if constexpr (std::is_same_v<C, LinearCall>) ops.linear(c, scratch);
        if constexpr (std::is_same_v<C, RopeCall>) ops.rope(c);
        if constexpr (std::is_same_v<C, KvAppendCall>) ops.kv_append(c);
        if constexpr (std::is_same_v<C, AttentionCall>) ops.attention(c, scratch);
        if constexpr (std::is_same_v<C, SiluMulCall>) ops.silu_mul(c);
        if constexpr (std::is_same_v<C, AddCall>) ops.add(c);
        if constexpr (std::is_same_v<C, SampleCall>) ops.sample(c);
        if constexpr (std::is_same_v<C, MoeRouteCall>) ops.moe_route(c);
        if constexpr (std::is_same_v<C, MoeLinearCall>) ops.moe_linear(c, scratch);
        if constexpr (std::is_same_v<C, MoeCombineCall>) ops.moe_combine(c);
        if constexpr (std::is_same_v<C, AttentionInCall>) ops.attention_in(c, scratch);
        if constexpr (std::is_same_v<C, AttentionOutCall>) ops.attention_out(c, scratch);
        if constexpr (std::is_same_v<C, FeedForwardCall>) ops.feed_forward(c, scratch);
        if constexpr (std::is_same_v<C, MoeFeedForwardCall>) ops.moe_feed_forward(c, scratch);
        if constexpr (std::is_same_v<C, BatchMatmulCall>) ops.batch_matmul(c);
        if constexpr (std::is_same_v<C, ScoreSoftmaxCall>) ops.score_softmax(c);
        if constexpr (std::is_same_v<C, AttentionBatchCall>) ops.attention_batch(c, scratch);
        if constexpr (std::is_same_v<C, AttentionGradCall>) ops.attention_backward(c, scratch);
        if constexpr (std::is_same_v<C, LayerNormCall>) ops.layernorm(c);
        if constexpr (std::is_same_v<C, GeluCall>) ops.gelu(c);
        if constexpr (std::is_same_v<C, GatherGemvCall>) ops.gather_gemv(c);
        if constexpr (std::is_same_v<C, MlpLayerNormCall>) ops.mlp_layer_norm(c, scratch);
      },
      call);
}

}  // namespace engine
