// The CPU's Ops: checks each call's operands and runs it at once, so that an op has
// finished when its call returns. Fused ops run as ops.cc composes them.
#pragma once

#include "kernels/cpu/context.h"
#include "kernels/ops.h"

namespace engine::cpu {

class CpuOps final : public Ops {
 public:
  explicit CpuOps(const Context& context) : context_(context) {}

  void embed(const EmbedCall& call) override;
  void rmsnorm(const RmsNormCall& call) override;
  void linear(const LinearCall& call, Workspace scratch) override;
  void rope(const RopeCall& call) override;
  void kv_append(const KvAppendCall& call) override;
  void attention(const AttentionCall& call, Workspace scratch) override;
  void silu_mul(const SiluMulCall& call) override;
  void add(const AddCall& call) override;
  void layernorm(const LayerNormCall& call) override;
  void gelu(const GeluCall& call) override;
  void gather_gemv(const GatherGemvCall& call) override;
  void sample(const SampleCall& call) override;
  void moe_route(const MoeRouteCall& call) override;
  void moe_linear(const MoeLinearCall& call, Workspace scratch) override;
  void moe_combine(const MoeCombineCall& call) override;
  void batch_matmul(const BatchMatmulCall& call) override;
  void score_softmax(const ScoreSoftmaxCall& call) override;
  void attention_batch(const AttentionBatchCall& call, Workspace scratch) override;
  void attention_backward(const AttentionGradCall& call, Workspace scratch) override;
  std::size_t attention_scratch_bytes(const AttentionCall& call) const override;
  std::size_t linear_scratch_bytes(const LinearCall& call) const override;
  std::size_t moe_linear_scratch_bytes(const MoeLinearCall& call) const override;
  std::size_t attention_batch_scratch_bytes(const AttentionBatchCall& call) const override;
  std::size_t attention_backward_scratch_bytes(const AttentionGradCall& call) const override;

 private:
  const Context& context_;
};

}  // namespace engine::cpu
