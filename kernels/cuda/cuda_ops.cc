#include "kernels/cuda/cuda_ops.h"

#include "kernels/core/check.h"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

AttentionProblem problem_of(const AttentionCall& call, bool aligned) {
  return {.tokens = call.q.size(0),
          .heads = call.q.size(1),
          .kv_heads = call.k_cache.size(0),
          .head_size = call.q.size(2),
          .bound = call.bound,
          .dtype = call.q.dtype,
          .aligned = aligned};
}

}  // namespace

void CudaOps::embed(const EmbedCall& call) {
  begin("embed", call);
  if (call.out.numel() > 0) cuda::embed(context_, call);
}

void CudaOps::rmsnorm(const RmsNormCall& call) {
  begin("rmsnorm", call);
  if (steps_.run(call)) return;
  if (call.x.numel() > 0) cuda::rmsnorm(context_, call);
}

void CudaOps::linear(const LinearCall& call, Workspace scratch) {
  begin("linear", call);
  if (steps_.run(call)) return;
  if (call.out.numel() == 0) return;
  if (call.weight.format == QuantFormat::kInt8) {
    const LinearCall biased = call.with_bias_as_residual();
    const bool aligned = is_vector_aligned(call.x) && is_vector_aligned(call.weight);
    const WidenedPlan plan = widened_plan(call.x, call.weight, aligned);
    if (plan.serves) return linear_widened(biased, plan, scratch);
    return cuda::linear_int8(context_, biased);
  }
  const LinearPlan plan = choose_linear(
      context_.arch(), {.tokens = call.x.size(0),
                        .rows = call.weight.rows,
                        .columns = call.weight.columns,
                        .x = call.x.dtype,
                        .weight = call.weight.format,
                        .aligned = is_vector_aligned(call.x) && is_vector_aligned(call.weight)});
  switch (plan.kernel) {
    case LinearKernel::kGemv:
      return cuda::linear_gemv(context_, call.with_bias_as_residual(), plan);
    case LinearKernel::kMatmul:
      if (matmul_.linear(call)) return;
      [[fallthrough]];
    case LinearKernel::kTiled:
      return cuda::linear_tiled(context_, call.with_bias_as_residual());
  }
}

void CudaOps::rope(const RopeCall& call) {
  begin("rope", call);
  if (call.x.numel() > 0) cuda::rope(context_, call);
}

void CudaOps::kv_append(const KvAppendCall& call) {
  begin("kv_append", call);
  if (call.k.numel() > 0) cuda::kv_append(context_, call);
}

void CudaOps::attention(const AttentionCall& call, Workspace scratch) {
  begin("attention", call);
  if (steps_.run(call)) return;
  if (call.q.numel() == 0) return;
  const bool aligned = is_vector_aligned(call.q) && is_vector_aligned(call.out) &&
                       is_vector_aligned(call.k_cache) && is_vector_aligned(call.v_cache);
  const AttentionPlan plan = choose_attention(context_.arch(), problem_of(call, aligned));
  switch (plan.kernel) {
    case AttentionKernel::kDecode: {
      void* partials = nullptr;
      if (plan.scratch_bytes > 0) {
        partials = scratch.take(DType::kU8, {static_cast<std::int64_t>(plan.scratch_bytes)}).data;
      }
      return cuda::attention_decode(context_, call, plan, partials);
    }
    case AttentionKernel::kSm90Prefill:
      return cuda::sm90_attention_prefill(context_, call, plan);
    case AttentionKernel::kPrefill:
      return cuda::attention_prefill(context_, call, plan);
    case AttentionKernel::kPlain:
      return cuda::attention_plain(context_, call);
  }
}

std::size_t CudaOps::attention_scratch_bytes(const AttentionCall& call) const {
  // Addresses may be a dry run's: the need is that of aligned operands, the most there is.
  return choose_attention(context_.arch(), problem_of(call, true)).scratch_bytes;
}

void CudaOps::silu_mul(const SiluMulCall& call) {
  begin("silu_mul", call);
  if (call.gate.numel() > 0) cuda::silu_mul(context_, call);
}

void CudaOps::add(const AddCall& call) {
  begin("add", call);
  if (call.a.numel() > 0) cuda::add(context_, call);
}

void CudaOps::layernorm(const LayerNormCall& call) {
  begin("layernorm", call);
  if (call.x.numel() > 0) cuda::layernorm(context_, call);
}

void CudaOps::gelu(const GeluCall& call) {
  begin("gelu", call);
  if (call.x.numel() > 0) cuda::gelu(context_, call);
}

void CudaOps::gather_gemv(const GatherGemvCall& call) {
  begin("gather_gemv", call);
  if (call.out.numel() > 0) cuda::gather_gemv(context_, call);
}

void CudaOps::sample(const SampleCall& call) {
  begin("sample", call);
  cuda::sample(context_, call);
}

void CudaOps::moe_route(const MoeRouteCall& call) {
  begin("moe_route", call);
  if (call.experts.numel() > 0) cuda::moe_route(context_, call);
}

void CudaOps::moe_linear(const MoeLinearCall& call, Workspace scratch) {
  begin("moe_linear", call);
  if (call.out.numel() == 0) return;
  void* sorted = nullptr;
  if (const std::size_t bytes = moe_linear_scratch_bytes(call); bytes > 0) {
    sorted = scratch.take(DType::kU8, {static_cast<std::int64_t>(bytes)}).data;
  }
  cuda::moe_linear(context_, call, sorted);
}

std::size_t CudaOps::moe_linear_scratch_bytes(const MoeLinearCall& call) const {
  return moe_linear_plan(context_, call).scratch_bytes;
}

void CudaOps::moe_combine(const MoeCombineCall& call) {
  begin("moe_combine", call);
  if (call.out.numel() > 0) cuda::moe_combine(context_, call);
}

void CudaOps::attention_in(const AttentionInCall& call, Workspace scratch) {
  begin("attention_in", call);
  if (steps_.run(call)) return;
  if (fused_gemv_fits(context_, call.x, call.qkv)) return cuda::attention_in_gemv(context_, call);
  if (!rope_append_serves(call)) return Ops::attention_in(call, scratch);
  const Tensor hidden = scratch.take(call.x.dtype, call.x.shape);
  const Tensor joined = scratch.take(call.x.dtype, {call.x.size(0), call.qkv.rows});
  rmsnorm({.out = hidden, .x = call.x, .weight = call.norm, .eps = call.eps});
  const WidenedPlan widened = widened_plan(hidden, call.qkv, is_vector_aligned(call.qkv));
  if (widened.serves && attention_in_widened(call, hidden, widened, scratch)) return;
  linear({.out = joined, .x = hidden, .weight = call.qkv, .residual = {}}, scratch);
  context_.begin_op("attention_in");
  rope_append(context_, call, joined);
}

void CudaOps::feed_forward(const FeedForwardCall& call, Workspace scratch) {
  if (call.x.size(0) > 1 && call.gate_up.format == QuantFormat::kInt8) {
    return feed_forward_int8(call, scratch);
  }
  begin("feed_forward", call);
  if (steps_.run(call, scratch)) return;
  if (!fused_gemv_fits(context_, call.x, call.gate_up)) return Ops::feed_forward(call, scratch);
  const Tensor inner = scratch.take(call.x.dtype, {1, call.down.columns});
  cuda::gate_up_gemv(context_, call, inner);
  linear({.out = call.x, .x = inner, .weight = call.down, .residual = call.x}, scratch);
}

// The default body where the product of gate and up can't end in silu_mul.
void CudaOps::feed_forward_int8(const FeedForwardCall& call, Workspace scratch) {
  Workspace whole = scratch;
  const Tensor hidden = scratch.take(call.x.dtype, call.x.shape);
  const WidenedPlan widened = widened_plan(hidden, call.gate_up, is_vector_aligned(call.gate_up));
  if (widened.serves) {
    // f16 could not hold a sum that is not scaled.
    if (call.x.dtype != DType::kBF16 || !feed_forward_widened(call, widened, whole)) {
      Ops::feed_forward(call, whole);
    }
    return;
  }
  if (linear_int8_plan(context_, hidden, call.gate_up).kernel != RowKernel::kHopper) {
    return Ops::feed_forward(call, whole);
  }
  begin("feed_forward", call);
  const Tensor inner = scratch.take(call.x.dtype, {call.x.size(0), call.down.columns});
  rmsnorm({.out = hidden, .x = call.x, .weight = call.norm, .eps = call.eps});
  context_.begin_op("feed_forward");
  linear_int8(context_, {.out = inner, .x = hidden, .weight = call.gate_up, .residual = {}}, true);
  linear({.out = call.x, .x = inner, .weight = call.down, .residual = call.x}, scratch);
}

void CudaOps::moe_feed_forward(const MoeFeedForwardCall& call, Workspace scratch) {
  begin("moe_feed_forward", call);
  if (steps_.run(call, scratch)) return;
  const std::int64_t tokens = call.x.size(0), inner = call.down.columns, top_k = call.top_k;
  Workspace whole = scratch;
  const Tensor hidden = scratch.take(call.x.dtype, call.x.shape);
  const Tensor logits = scratch.take(DType::kF32, {tokens, call.experts});
  const Tensor experts = scratch.take(DType::kI32, {tokens, top_k});
  const Tensor weights = scratch.take(DType::kF32, {tokens, top_k});
  const Tensor product = scratch.take(call.x.dtype, {tokens, top_k, inner});
  const Tensor outputs = scratch.take(call.x.dtype, {tokens, top_k, call.x.size(1)});
  const MoeLinearCall up{.out = product,
                         .x = hidden.split(0, 1),
                         .weight = call.gate_up,
                         .experts = experts,
                         .count = call.experts};
  if (tokens == 1 || moe_linear_plan(context_, up).kernel != RowKernel::kHopper) {
    return Ops::moe_feed_forward(call, whole);
  }
  rmsnorm({.out = hidden, .x = call.x, .weight = call.norm, .eps = call.eps});
  linear({.out = logits, .x = hidden, .weight = call.router, .residual = {}}, scratch);
  moe_route({.experts = experts, .weights = weights, .logits = logits});
  context_.begin_op("moe_feed_forward");
  Workspace sorted = scratch;
  const auto bytes = static_cast<std::int64_t>(moe_linear_scratch_bytes(up));
  cuda::moe_linear(context_, up, sorted.take(DType::kU8, {bytes}).data, true);
  moe_linear({.out = outputs,
              .x = product,
              .weight = call.down,
              .experts = experts,
              .count = call.experts},
             scratch);
  moe_combine({.out = call.x, .y = outputs, .weights = weights, .residual = call.x});
}

}  // namespace engine::cuda
