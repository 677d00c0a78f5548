// attention's backward on tensor cores in bf16 (attention_backward_tiles.cuh has the kernel).
#include "kernels/cuda/attention_backward_tiles.cuh"

namespace engine::cuda {

void attention_backward_tiles_bf16(CudaContext& context, const AttentionBackwardCall& call,
                                   const AttentionBackwardPlan& plan,
                                   const BackwardScratch& scratch) {
  pick_backward_tiles<__nv_bfloat16>(context, call, plan, scratch);
}

}  // namespace engine::cuda
