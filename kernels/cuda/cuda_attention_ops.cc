// The ops of the CUDA backend that serve attention over batches.
#include "kernels/core/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {

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
      choose_attention_batch(context_.arch(), {.head_size = call.q.size(3),
                                               .dtype = call.q.dtype,
                                               .score = call.score.kind,
                                               // Of no keys at all the copy engine has no map.
                                               .aligned = aligned && call.k.numel() > 0});
  const bool f16 = call.q.dtype == DType::kF16;
  switch (plan.kernel) {
    case AttentionBatchKernel::kSm90:
      return f16 ? sm90_attention_batch_f16(context_, call, plan)
                 : sm90_attention_batch_bf16(context_, call, plan);
    case AttentionBatchKernel::kTiles:
      return f16 ? attention_batch_tiles_f16(context_, call, plan)
                 : attention_batch_tiles_bf16(context_, call, plan);
    case AttentionBatchKernel::kPlain:
      return attention_batch_plain(context_, call);
  }
}

void CudaOps::attention_backward(const AttentionGradCall& call, Workspace) {
  begin("attention_backward", call);
  fail(ErrorKind::kUnsupported, "attention_backward: this backend has no gradients yet");
}

std::size_t CudaOps::attention_batch_scratch_bytes(const AttentionBatchCall&) const { return 0; }

std::size_t CudaOps::attention_backward_scratch_bytes(const AttentionGradCall&) const { return 0; }

}  // namespace engine::cuda
