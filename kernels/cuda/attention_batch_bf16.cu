// attention_batch on tensor cores by warp-wide products, bf16 (attention_batch_tiles.cuh has the
// kernel).
#include "kernels/cuda/attention_batch_tiles.cuh"

namespace engine::cuda {

void attention_batch_tiles_bf16(CudaContext& context, const AttentionBatchCall& call,
                                const AttentionBatchPlan& plan) {
  pick_batch_tiles<__nv_bfloat16>(context, call, plan.head_bucket);
}

}  // namespace engine::cuda
