// Two Ops that execute nothing: one keeps the calls, one only measures the workspace.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/ops.h"

namespace engine {

struct RecordedCall {
  Call call;
  Workspace scratch;
};

// Keeps every call, fused ones whole, in order. Operands are checked as they come.
class Recorder final : public Ops {
 public:
  // `backend` answers questions about scratch; it is never asked to run anything.
  explicit Recorder(const Ops& backend) : backend_(backend) {}

  void embed(const EmbedCall& call) override { keep(call, {}); }
  void rmsnorm(const RmsNormCall& call) override { keep(call, {}); }
  void linear(const LinearCall& call, Workspace scratch) override { keep(call, scratch); }
  void rope(const RopeCall& call) override { keep(call, {}); }
  void kv_append(const KvAppendCall& call) override { keep(call, {}); }
  void attention(const AttentionCall& call, Workspace scratch) override { keep(call, scratch); }
  void silu_mul(const SiluMulCall& call) override { keep(call, {}); }
  void add(const AddCall& call) override { keep(call, {}); }
  void layernorm(const LayerNormCall& call) override { keep(call, {}); }
  void gelu(const GeluCall& call) override { keep(call, {}); }
  void gather_gemv(const GatherGemvCall& call) override { keep(call, {}); }
  void sample(const SampleCall& call) override { keep(call, {}); }
  void moe_route(const MoeRouteCall& call) override { keep(call, {}); }
  void moe_linear(const MoeLinearCall& call, Workspace scratch) override { keep(call, scratch); }
  void moe_combine(const MoeCombineCall& call) override { keep(call, {}); }
  void batch_matmul(const BatchMatmulCall& call) override { keep(call, {}); }
  void score_softmax(const ScoreSoftmaxCall& call) override { keep(call, {}); }
  void attention_batch(const AttentionBatchCall& call, Workspace scratch) override {
    keep(call, scratch);
  }
  void attention_backward(const AttentionGradCall& call, Workspace scratch) override {
    keep(call, scratch);
  }
  std::size_t attention_scratch_bytes(const AttentionCall& call) const override {
    return backend_.attention_scratch_bytes(call);
  }
  std::size_t linear_scratch_bytes(const LinearCall& call) const override {
    return backend_.linear_scratch_bytes(call);
  }
  std::size_t moe_linear_scratch_bytes(const MoeLinearCall& call) const override {
    return backend_.moe_linear_scratch_bytes(call);
  }
  std::size_t attention_batch_scratch_bytes(const AttentionBatchCall& call) const override {
    return backend_.attention_batch_scratch_bytes(call);
  }
  std::size_t attention_backward_scratch_bytes(const AttentionGradCall& call) const override {
    return backend_.attention_backward_scratch_bytes(call);
  }
  void attention_in(const AttentionInCall& call, Workspace scratch) override {
    keep(call, scratch);
  }
  void attention_out(const AttentionOutCall& call, Workspace scratch) override {
    keep(call, scratch);
  }
  void feed_forward(const FeedForwardCall& call, Workspace scratch) override {
    keep(call, scratch);
  }
  void moe_feed_forward(const MoeFeedForwardCall& call, Workspace scratch) override {
    keep(call, scratch);
  }
  void mlp_layer_norm(const MlpLayerNormCall& call, Workspace scratch) override {
    keep(call, scratch);
  }

  std::vector<RecordedCall> take() { return std::move(calls_); }

 private:
  template <typename C>
  void keep(const C& call, Workspace scratch) {
    check_call(call);
    calls_.push_back({call, scratch});
  }

  const Ops& backend_;
  std::vector<RecordedCall> calls_;
};

// Executes nothing: the default bodies of the fused ops run over it, so that the workspace passed
// down notes what they take.
class DryRun final : public Ops {
 public:
  explicit DryRun(const Ops& backend) : backend_(backend) {}

  void embed(const EmbedCall& call) override { check_call(call); }
  void rmsnorm(const RmsNormCall& call) override { check_call(call); }
  void linear(const LinearCall& call, Workspace scratch) override {
    check_call(call);
    take(scratch, backend_.linear_scratch_bytes(call));
  }
  void rope(const RopeCall& call) override { check_call(call); }
  void kv_append(const KvAppendCall& call) override { check_call(call); }
  void attention(const AttentionCall& call, Workspace scratch) override {
    check_call(call);
    take(scratch, backend_.attention_scratch_bytes(call));
  }
  void silu_mul(const SiluMulCall& call) override { check_call(call); }
  void add(const AddCall& call) override { check_call(call); }
  void layernorm(const LayerNormCall& call) override { check_call(call); }
  void gelu(const GeluCall& call) override { check_call(call); }
  void gather_gemv(const GatherGemvCall& call) override { check_call(call); }
  void sample(const SampleCall& call) override { check_call(call); }
  void moe_route(const MoeRouteCall& call) override { check_call(call); }
  void moe_linear(const MoeLinearCall& call, Workspace scratch) override {
    check_call(call);
    take(scratch, backend_.moe_linear_scratch_bytes(call));
  }
  void moe_combine(const MoeCombineCall& call) override { check_call(call); }
  void batch_matmul(const BatchMatmulCall& call) override { check_call(call); }
  void score_softmax(const ScoreSoftmaxCall& call) override { check_call(call); }
  void attention_batch(const AttentionBatchCall& call, Workspace scratch) override {
    check_call(call);
    take(scratch, backend_.attention_batch_scratch_bytes(call));
  }
  void attention_backward(const AttentionGradCall& call, Workspace scratch) override {
    check_call(call);
    take(scratch, backend_.attention_backward_scratch_bytes(call));
  }
  std::size_t attention_scratch_bytes(const AttentionCall& call) const override {
    return backend_.attention_scratch_bytes(call);
  }
  std::size_t linear_scratch_bytes(const LinearCall& call) const override {
    return backend_.linear_scratch_bytes(call);
  }
  std::size_t moe_linear_scratch_bytes(const MoeLinearCall& call) const override {
    return backend_.moe_linear_scratch_bytes(call);
  }
  std::size_t attention_batch_scratch_bytes(const AttentionBatchCall& call) const override {
    return backend_.attention_batch_scratch_bytes(call);
  }
  std::size_t attention_backward_scratch_bytes(const AttentionGradCall& call) const override {
    return backend_.attention_backward_scratch_bytes(call);
  }

 private:
  static void take(Workspace scratch, std::size_t bytes) {
    if (bytes > 0) scratch.take(DType::kU8, {static_cast<std::int64_t>(bytes)});
  }

  const Ops& backend_;
};

}  // namespace engine
