// attention for many queries on Hopper: head sizes to 128 (sm90_attention_prefill.cuh has the
// kernel).
#include "kernels/cuda/sm90_attention_prefill.cuh"

namespace engine::cuda {
namespace {

template <typename T>
void pick_head(CudaContext& context, const AttentionCall& call, int bucket) {
  if (bucket == 64) return launch_sm90_prefill<T, AttentionTile<64, 3>>(context, call);
  launch_sm90_prefill<T, AttentionTile<128, 2>>(context, call);
}

}  // namespace

void sm90_attention_prefill(CudaContext& context, const AttentionCall& call,
                            const AttentionPlan& plan) {
  if (plan.head_bucket > 128) return sm90_attention_prefill_wide(context, call, plan);
  if (call.q.dtype == DType::kF16) {
    pick_head<__half>(context, call, plan.head_bucket);
  } else {
    pick_head<__nv_bfloat16>(context, call, plan.head_bucket);
  }
}

}  // namespace engine::cuda
