// attention's backward on tensor cores in f16 (attention_backward_tiles.cuh has the kernel).
#include "kernels/cuda/attention_backward_tiles.cuh"

namespace engine::cuda {

void attention_backward_tiles_f16(CudaContext& context, const AttentionBackwardCall& call,
                                  const AttentionBackwardPlan& plan,
                                  const BackwardScratch& scratch) {
  pick_backward_tiles<__half>(context, call, plan, scratch);
}

}  // namespace engine::cuda
