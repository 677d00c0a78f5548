// attention's backward on Hopper in bf16, scores with an offset at most
// (sm90_attention_backward_kernel.cuh has the kernel).
#include "kernels/cuda/sm90_attention_backward_kernel.cuh"

namespace engine::cuda {

void sm90_attention_backward_bf16(CudaContext& context, const AttentionBackwardCall& call,
                                  const AttentionBackwardPlan& plan,
                                  const BackwardScratch& scratch) {
  pick_sm90_backward<__nv_bfloat16, ScoreForm::kOffset>(context, call, plan, scratch);
}

}  // namespace engine::cuda
