// attention's backward on tensor cores in bf16 (attention_backward_tiles.cuh has the kernel).
#include "kernels/cuda/attention_backward_tiles.cuh"

namespace engine::cuda {

void attention_backward_tiles(CudaContext& context, const AttentionBackwardCall& call,
                              const AttentionBackwardPlan& plan, const BackwardScratch& scratch) {
  if (call.dtype == DType::kF16) return attention_backward_tiles_f16(context, call, plan, scratch);
  pick_backward_tiles<__nv_bfloat16>(context, call, plan, scratch);
}

}  // namespace engine::cuda
