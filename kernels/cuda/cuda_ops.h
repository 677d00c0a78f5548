// The ops of the CUDA backend: checks the operands, asks the chooser, calls the launcher.
//
// Owned by the backend; used by one thread at a time. Every op is asynchronous on the context's
// stream, so the same calls serve eager work and stream capture.
#pragma once

#include "kernels/cuda/choose.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/step/runner.h"
#include "kernels/ops.h"

namespace engine::cuda {

class CudaOps final : public Ops {
 public:
  explicit CudaOps(CudaContext& context) : context_(context), matmul_(context), steps_(context) {}

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

  // attention_out's default body is already one kernel: the linear's epilogue adds the residual.
  void attention_in(const AttentionInCall& call, Workspace scratch) override;
  void feed_forward(const FeedForwardCall& call, Workspace scratch) override;
  void moe_feed_forward(const MoeFeedForwardCall& call, Workspace scratch) override;
  void mlp_layer_norm(const MlpLayerNormCall& call, Workspace scratch) override;

  // Runs what one token asks for; recorded steps too.
  StepRunner& steps() { return steps_; }

 private:
  // What every op does first.
  template <typename C>
  void begin(const char* name, const C& call) {
    check_call(call);
    context_.make_current();
    context_.begin_op(name);
  }

  void feed_forward_int8(const FeedForwardCall& call, Workspace scratch);

  // How cuBLASLt may have a linear of int8 weights, by widened weights; with `aligned` operands.
  WidenedPlan widened_plan(const Tensor& x, const Weight& weight, bool aligned) const;
  // linear(call), feed_forward(call) for x of bf16, and what follows the norm in
  // attention_in(call), so; `plan` serves it. Those that return a bool return false, with x as it
  // was, where cuBLASLt has no algorithm or a weight is more than a piece.
  void linear_widened(const LinearCall& call, const WidenedPlan& plan, Workspace scratch);
  bool attention_in_widened(const AttentionInCall& call, const Tensor& hidden,
                            const WidenedPlan& plan, Workspace scratch);
  bool feed_forward_widened(const FeedForwardCall& call, const WidenedPlan& plan,
                            Workspace scratch);

  // Both products of the MLP for one token, the norm between them included; false, with nothing
  // issued, where the GEMV serves neither. `inner` is (1, F).
  bool mlp_of_one_token(const MlpLayerNormCall& call, const Tensor& inner);

  CudaContext& context_;
  Matmul matmul_;
  StepRunner steps_;
};

}  // namespace engine::cuda
