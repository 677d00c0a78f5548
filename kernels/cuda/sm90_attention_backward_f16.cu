// attention's backward on Hopper in f16, affine score functions (sm90_attention_backward_kernel.cuh
// has the kernel).
#include "kernels/cuda/sm90_attention_backward_kernel.cuh"

namespace engine::cuda {

void sm90_attention_backward_f16(CudaContext& context, const AttentionBackwardCall& call,
                                 const AttentionBackwardPlan& plan,
                                 const BackwardScratch& scratch) {
  if (plan.form == ScoreForm::kSlope) {
    return pick_sm90_backward<__half, ScoreForm::kSlope>(context, call, plan, scratch);
  }
  pick_sm90_backward<__half, ScoreForm::kOffset>(context, call, plan, scratch);
}

}  // namespace engine::cuda
