// The CPU's ops, one per file: each runs its call to the end on the threads of `context`. Operands
// have been checked (check_call); what an op computes stands in kernels/ops.h.
#pragma once

#include "kernels/cpu/context.h"
#include "kernels/ops.h"

namespace engine::cpu {

void embed(const Context& context, const EmbedCall& call);
void rmsnorm(const Context& context, const RmsNormCall& call);
void linear(const Context& context, const LinearCall& call, Workspace scratch);
// Scratch of linear for `call`.
std::size_t linear_scratch_bytes(const Context& context, const LinearCall& call);
void rope(const Context& context, const RopeCall& call);
void kv_append(const Context& context, const KvAppendCall& call);
void attention(const Context& context, const AttentionCall& call, Workspace scratch);
// Scratch of attention for `call` on `threads` threads.
std::size_t attention_scratch_bytes(int threads, const AttentionCall& call);
void silu_mul(const Context& context, const SiluMulCall& call);
void add(const Context& context, const AddCall& call);
void layernorm(const Context& context, const LayerNormCall& call);
void gelu(const Context& context, const GeluCall& call);
void gather_gemv(const Context& context, const GatherGemvCall& call);
void sample(const Context& context, const SampleCall& call);
void moe_route(const Context& context, const MoeRouteCall& call);
void moe_linear(const Context& context, const MoeLinearCall& call, Workspace scratch);
// Scratch of moe_linear for `call`.
std::size_t moe_linear_scratch_bytes(const MoeLinearCall& call);
void moe_combine(const Context& context, const MoeCombineCall& call);
void batch_matmul(const Context& context, const BatchMatmulCall& call);
void score_softmax(const Context& context, const ScoreSoftmaxCall& call);
void attention_batch(const Context& context, const AttentionBatchCall& call, Workspace scratch);
std::size_t attention_batch_scratch_bytes(int threads, const AttentionBatchCall& call);
void attention_backward(const Context& context, const AttentionGradCall& call, Workspace scratch);
std::size_t attention_backward_scratch_bytes(int threads, const AttentionGradCall& call);

}  // namespace engine::cpu
