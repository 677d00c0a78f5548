// attention_batch on Hopper, bf16, scores that are offset or free (sm90_attention_batch.cuh has the
// kernel).
#include "kernels/cuda/sm90_attention_batch.cuh"

namespace engine::cuda {

void sm90_attention_batch_bf16(CudaContext& context, const AttentionBatchCall& call,
                               const AttentionBatchPlan& plan) {
  if (plan.form == ScoreForm::kSlope) return sm90_attention_batch_slope(context, call, plan);
  if (plan.form == ScoreForm::kOffset) {
    return pick_sm90_batch<__nv_bfloat16, OffsetScores>(context, call, plan.head_bucket);
  }
  pick_sm90_batch<__nv_bfloat16, FreeScores>(context, call, plan.head_bucket);
}

}  // namespace engine::cuda
