// attention_batch on Hopper, f16: the scores of choose_attention_batch's choice
// (sm90_attention_batch.cuh has the kernel).
#include "kernels/cuda/sm90_attention_batch.cuh"

namespace engine::cuda {

void sm90_attention_batch_f16(CudaContext& context, const AttentionBatchCall& call,
                              const AttentionBatchPlan& plan) {
  if (plan.form == ScoreForm::kOffset) {
    return pick_sm90_batch<__half, OffsetScores>(context, call, plan.head_bucket);
  }
  pick_sm90_batch<__half, UnitSlopeScores>(context, call, plan.head_bucket);
}

}  // namespace engine::cuda
