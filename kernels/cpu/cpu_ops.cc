#include "kernels/cpu/cpu_ops.h"

#include "kernels/cpu/launchers.h"

namespace engine::cpu {

void CpuOps::embed(const EmbedCall& call) {
  check_call(call);
  cpu::embed(context_, call);
}

void CpuOps::rmsnorm(const RmsNormCall& call) {
  check_call(call);
  cpu::rmsnorm(context_, call);
}

void CpuOps::linear(const LinearCall& call, Workspace scratch) {
  check_call(call);
  cpu::linear(context_, call.with_bias_as_residual(), scratch);
}

void CpuOps::rope(const RopeCall& call) {
  check_call(call);
  cpu::rope(context_, call);
}

void CpuOps::kv_append(const KvAppendCall& call) {
  check_call(call);
  cpu::kv_append(context_, call);
}

void CpuOps::attention(const AttentionCall& call, Workspace scratch) {
  check_call(call);
  cpu::attention(context_, call, scratch);
}

void CpuOps::silu_mul(const SiluMulCall& call) {
  check_call(call);
  cpu::silu_mul(context_, call);
}

void CpuOps::add(const AddCall& call) {
  check_call(call);
  cpu::add(context_, call);
}

void CpuOps::layernorm(const LayerNormCall& call) {
  check_call(call);
  cpu::layernorm(context_, call);
}

void CpuOps::gelu(const GeluCall& call) {
  check_call(call);
  cpu::gelu(context_, call);
}

void CpuOps::gather_gemv(const GatherGemvCall& call) {
  check_call(call);
  cpu::gather_gemv(context_, call);
}

void CpuOps::sample(const SampleCall& call) {
  check_call(call);
  cpu::sample(context_, call);
}

void CpuOps::moe_route(const MoeRouteCall& call) {
  check_call(call);
  cpu::moe_route(context_, call);
}

void CpuOps::moe_linear(const MoeLinearCall& call, Workspace scratch) {
  check_call(call);
  cpu::moe_linear(context_, call, scratch);
}

void CpuOps::moe_combine(const MoeCombineCall& call) {
  check_call(call);
  cpu::moe_combine(context_, call);
}

void CpuOps::batch_matmul(const BatchMatmulCall& call) {
  check_call(call);
  cpu::batch_matmul(context_, call);
}

void CpuOps::score_softmax(const ScoreSoftmaxCall& call) {
  check_call(call);
  cpu::score_softmax(context_, call);
}

void CpuOps::attention_batch(const AttentionBatchCall& call, Workspace scratch) {
  check_call(call);
  cpu::attention_batch(context_, call, scratch);
}

void CpuOps::attention_backward(const AttentionGradCall& call, Workspace scratch) {
  check_call(call);
  cpu::attention_backward(context_, call, scratch);
}

std::size_t CpuOps::attention_scratch_bytes(const AttentionCall& call) const {
  return cpu::attention_scratch_bytes(context_.threads, call);
}

std::size_t CpuOps::linear_scratch_bytes(const LinearCall& call) const {
  return cpu::linear_scratch_bytes(context_, call);
}

std::size_t CpuOps::moe_linear_scratch_bytes(const MoeLinearCall& call) const {
  return cpu::moe_linear_scratch_bytes(call);
}

std::size_t CpuOps::attention_batch_scratch_bytes(const AttentionBatchCall& call) const {
  return cpu::attention_batch_scratch_bytes(context_.threads, call);
}

std::size_t CpuOps::attention_backward_scratch_bytes(const AttentionGradCall& call) const {
  return cpu::attention_backward_scratch_bytes(context_.threads, call);
}

}  // namespace engine::cpu
