// The launchers of the CUDA kernels, one per op (and per way of serving it). Operands were checked
// by CudaOps; each launcher issues its kernels on the context's stream and returns.
#pragma once

#include "kernels/cuda/aligned.h"
#include "kernels/cuda/choose.h"
#include "kernels/cuda/context.h"
#include "kernels/ops.h"

namespace engine::cuda {

void embed(CudaContext& context, const EmbedCall& call);
void rmsnorm(CudaContext& context, const RmsNormCall& call);
void rope(CudaContext& context, const RopeCall& call);
void kv_append(CudaContext& context, const KvAppendCall& call);
void silu_mul(CudaContext& context, const SiluMulCall& call);
void add(CudaContext& context, const AddCall& call);
void layernorm(CudaContext& context, const LayerNormCall& call);
void sm90_layernorm(CudaContext& context, const LayerNormCall& call, const LayerNormPlan& plan);
void gelu(CudaContext& context, const GeluCall& call);
void gather_gemv(CudaContext& context, const GatherGemvCall& call);
void sample(CudaContext& context, const SampleCall& call);

// LinearKernel::kGemv and kTiled.
void linear_gemv(CudaContext& context, const LinearCall& call, const LinearPlan& plan);
void linear_tiled(CudaContext& context, const LinearCall& call);

// linear where the weight is int8. With `silu`, which only RowKernel::kHopper takes, the outputs
// are F gates, then F ups, and out (T, F) becomes silu(gate) · up.
RowPlan linear_int8_plan(const CudaContext& context, const Tensor& x, const Weight& weight);
void linear_int8(CudaContext& context, const LinearCall& call, bool silu = false);

void moe_route(CudaContext& context, const MoeRouteCall& call);
// `scratch` has the plan's scratch_bytes; `silu` as above, out being (T, S, F).
RowPlan moe_linear_plan(const CudaContext& context, const MoeLinearCall& call);
void moe_linear(CudaContext& context, const MoeLinearCall& call, void* scratch, bool silu = false);
void moe_combine(CudaContext& context, const MoeCombineCall& call);

// `scratch` has plan.scratch_bytes.
void attention_decode(CudaContext& context, const AttentionCall& call, const AttentionPlan& plan,
                      void* scratch);
void attention_prefill(CudaContext& context, const AttentionCall& call, const AttentionPlan& plan);
void sm90_attention_prefill(CudaContext& context, const AttentionCall& call,
                            const AttentionPlan& plan);
// Head sizes above 128, called by the former.
void sm90_attention_prefill_wide(CudaContext& context, const AttentionCall& call,
                                 const AttentionPlan& plan);
void attention_plain(CudaContext& context, const AttentionCall& call);

// attention_batch by AttentionBatchKernel, of one type each; sm90_attention_batch_slope is called
// by the former.
void sm90_attention_batch_bf16(CudaContext& context, const AttentionBatchCall& call,
                               const AttentionBatchPlan& plan);
void sm90_attention_batch_slope(CudaContext& context, const AttentionBatchCall& call,
                                const AttentionBatchPlan& plan);
void sm90_attention_batch_f16(CudaContext& context, const AttentionBatchCall& call,
                              const AttentionBatchPlan& plan);
void attention_batch_tiles_bf16(CudaContext& context, const AttentionBatchCall& call,
                                const AttentionBatchPlan& plan);
void attention_batch_tiles_f16(CudaContext& context, const AttentionBatchCall& call,
                               const AttentionBatchPlan& plan);
void attention_batch_small(CudaContext& context, const AttentionBatchCall& call);
void attention_batch_plain(CudaContext& context, const AttentionBatchCall& call);

void batch_matmul(CudaContext& context, const BatchMatmulCall& call);
void score_softmax(CudaContext& context, const ScoreSoftmaxCall& call);

// The fused ops for one token. fused_gemv_fits says whether the GEMV serves them (shared memory,
// types); `inner` is (1, F).
bool fused_gemv_fits(const CudaContext& context, const Tensor& x, const Weight& weight);
void attention_in_gemv(CudaContext& context, const AttentionInCall& call);

// The end of attention_in for tokens [first, first + joined.size(0)): q, k and v from the joined
// projections (T, (H + 2 G) · Dh), of q's type, or f32 sums with `scales` of the columns (bits of
// bf16). It serves 16-bit types, head sizes that are multiples of 16, and aligned rows.
bool rope_append_serves(const AttentionInCall& call);
void rope_append(CudaContext& context, const AttentionInCall& call, const Tensor& joined,
                 std::int64_t first = 0, const void* scales = nullptr);
// inner = silu(h · Wgateᵀ) · (h · Wupᵀ), h = rmsnorm(x).
void gate_up_gemv(CudaContext& context, const FeedForwardCall& call, const Tensor& inner);

}  // namespace engine::cuda
