// attention's backward on Hopper in bf16 (sm90_attention_backward_kernel.cuh has the kernel).
#include "kernels/cuda/sm90_attention_backward_kernel.cuh"

namespace engine::cuda {

void sm90_attention_backward(CudaContext& context, const AttentionBackwardCall& call,
                             const AttentionBackwardPlan& plan, const BackwardScratch& scratch) {
  if (call.dtype == DType::kF16) return sm90_attention_backward_f16(context, call, plan, scratch);
  pick_sm90_backward<__nv_bfloat16>(context, call, plan, scratch);
}

}  // namespace engine::cuda
