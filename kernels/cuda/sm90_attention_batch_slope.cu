// attention_batch on Hopper, bf16, scores with a slope (sm90_attention_batch.cuh has the kernel).
#include "kernels/cuda/sm90_attention_batch.cuh"

namespace engine::cuda {

void sm90_attention_batch_slope(CudaContext& context, const AttentionBatchCall& call,
                                const AttentionBatchPlan& plan) {
  if (plan.unit_slope) {
    return pick_sm90_batch<__nv_bfloat16, UnitSlopeScores>(context, call, plan.head_bucket);
  }
  pick_sm90_batch<__nv_bfloat16, AnySlopeScores>(context, call, plan.head_bucket);
}

}  // namespace engine::cuda
