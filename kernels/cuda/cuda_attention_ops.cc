// The ops of the CUDA backend that serve attention over batches.
#include "kernels/cuda/attention_backward.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

// (B, rows, heads, Dh), of a ragged batch without its axis of sequences.
AttentionRows rows_of(const Tensor& tensor, bool ragged) {
  return {tensor.data, ragged ? 0 : tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

AttentionBackwardCall backward_call(const AttentionGradCall& call) {
  const AttentionBatchCall& forward = call.forward;
  const bool ragged = forward.ragged();
  AttentionBackwardCall b;
  b.dtype = forward.q.dtype;
  b.q = rows_of(forward.q, ragged);
  b.k = rows_of(forward.k, ragged);
  b.v = rows_of(forward.v, ragged);
  b.out = rows_of(forward.out, ragged);
  b.dout = rows_of(call.dout, ragged);
  b.dq = rows_of(call.dq, ragged);
  b.dk = rows_of(call.dk, ragged);
  b.dv = rows_of(call.dv, ragged);
  b.lse = forward.lse.as<float>();
  b.lse_batch = ragged ? 0 : forward.lse.stride(0);
  b.lse_head = forward.lse.stride(1);
  b.lse_row = forward.lse.stride(2);
  b.query_offsets = ragged ? forward.query_offsets.as<int>() : nullptr;
  b.key_offsets = ragged ? forward.key_offsets.as<int>() : nullptr;
  b.batch = forward.sequences();
  b.heads = forward.q.size(2);
  b.kv_heads = forward.k.size(2);
  b.head_size = forward.q.size(3);
  b.queries = forward.queries();
  b.keys = forward.keys();
  b.query_total = forward.q.size(1);
  b.key_total = forward.k.size(1);
  b.scale = forward.scale;
  b.position = forward.position ? forward.position.as<int>() : nullptr;
  b.rule = forward.rule();
  b.deterministic = call.deterministic;
  return b;
}

bool gradients_aligned(const AttentionGradCall& call) {
  const AttentionBatchCall& forward = call.forward;
  for (const Tensor* tensor : {&forward.q, &forward.k, &forward.v, &forward.out, &call.dout,
                               &call.dq, &call.dk, &call.dv}) {
    // Of no rows at all the copy engine has no map.
    if (!is_vector_aligned(*tensor) || tensor->numel() == 0) return false;
  }
  return true;
}

AttentionBackwardPlan backward_plan(const CudaArch& arch, const AttentionGradCall& call,
                                    bool aligned) {
  return choose_attention_backward(arch, {.head_size = call.forward.q.size(3),
                                          .dtype = call.forward.q.dtype,
                                          .score = call.forward.score.kind,
                                          .aligned = aligned});
}

}  // namespace

void CudaOps::batch_matmul(const BatchMatmulCall& call) {
  begin("batch_matmul", call);
  if (call.out.numel() > 0) cuda::batch_matmul(context_, call);
}

void CudaOps::score_softmax(const ScoreSoftmaxCall& call) {
  begin("score_softmax", call);
  if (call.out.numel() > 0) cuda::score_softmax(context_, call);
}

void CudaOps::attention_batch(const AttentionBatchCall& call, Workspace) {
  begin("attention_batch", call);
  if (call.q.numel() == 0 || call.sequences() == 0 || call.queries() == 0) return;
  const bool aligned = is_vector_aligned(call.q) && is_vector_aligned(call.out) &&
                       is_vector_aligned(call.k) && is_vector_aligned(call.v);
  const AttentionBatchPlan plan =
      choose_attention_batch(context_.arch(), {.queries = call.queries(),
                                               .keys = call.keys(),
                                               .head_size = call.q.size(3),
                                               .dtype = call.q.dtype,
                                               .score = call.score.kind,
                                               // Of no keys at all the copy engine has no map.
                                               .aligned = aligned && call.k.numel() > 0});
  const bool f16 = call.q.dtype == DType::kF16;
  switch (plan.kernel) {
    case AttentionBatchKernel::kSm90:
      return f16 ? sm90_attention_batch_f16(context_, call, plan)
                 : sm90_attention_batch_bf16(context_, call, plan);
    case AttentionBatchKernel::kSmall:
      return attention_batch_small(context_, call);
    case AttentionBatchKernel::kTiles:
      return f16 ? attention_batch_tiles_f16(context_, call, plan)
                 : attention_batch_tiles_bf16(context_, call, plan);
    case AttentionBatchKernel::kPlain:
      return attention_batch_plain(context_, call);
  }
}

void CudaOps::attention_backward(const AttentionGradCall& call, Workspace scratch) {
  begin("attention_backward", call);
  const AttentionBackwardCall backward = backward_call(call);
  if (backward.batch == 0 || backward.heads == 0) return;
  const AttentionBackwardPlan plan = backward_plan(context_.arch(), call, gradients_aligned(call));
  const auto bytes = static_cast<std::int64_t>(backward_scratch_bytes(backward, plan));
  cuda::attention_backward(context_, backward, plan, scratch.take(DType::kU8, {bytes}).data);
}

std::size_t CudaOps::attention_batch_scratch_bytes(const AttentionBatchCall&) const { return 0; }

std::size_t CudaOps::attention_backward_scratch_bytes(const AttentionGradCall& call) const {
  // Addresses may be a dry run's: the need is that of aligned operands, the most there is.
  return backward_scratch_bytes(backward_call(call), backward_plan(context_.arch(), call, true));
}

}  // namespace engine::cuda
