// attention for many queries on Hopper: head sizes 136 to 256, tiles of 64 keys
// (sm90_attention_prefill.cuh has the kernel).
#include "kernels/cuda/sm90_attention_prefill.cuh"

namespace engine::cuda {
namespace {

template <typename T>
void pick_head(CudaContext& context, const AttentionCall& call, int bucket) {
  if (bucket == 192) return launch_sm90_prefill<T, AttentionTile<192, 2>>(context, call);
  launch_sm90_prefill<T, AttentionTile<256, 2>>(context, call);
}

}  // namespace

void sm90_attention_prefill_wide(CudaContext& context, const AttentionCall& call,
                                 const AttentionPlan& plan) {
  if (call.q.dtype == DType::kF16) {
    pick_head<__half>(context, call, plan.head_bucket);
  } else {
    pick_head<__nv_bfloat16>(context, call, plan.head_bucket);
  }
}

}  // namespace engine::cuda
