// attention's backward on Hopper in bf16, the other score functions
// (sm90_attention_backward_kernel.cuh has the kernel).
#include "kernels/cuda/sm90_attention_backward_kernel.cuh"

namespace engine::cuda {

void sm90_attention_backward_scores(CudaContext& context, const AttentionBackwardCall& call,
                                    const AttentionBackwardPlan& plan,
                                    const BackwardScratch& scratch) {
  if (plan.form == ScoreForm::kFree) {
    return pick_sm90_backward<__nv_bfloat16, ScoreForm::kFree>(context, call, plan, scratch);
  }
  pick_sm90_backward<__nv_bfloat16, ScoreForm::kSlope>(context, call, plan, scratch);
}

}  // namespace engine::cuda
