// moe_route: p = softmax(logits) over E in fp32, the S largest (ties to the lowest index),
// w_s = p_s ÷ Σ p of the chosen.
//
// Layout: logits (T, E), experts and weights (T, S), strided. A warp routes a token: each choice is
// the first, in descending order of p and then ascending index, behind the choice before it, so
// that nothing has to be marked as taken. Limit: latency.
#include <math_constants.h>

#include <cstdint>

#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

constexpr int kWarps = 4;

struct RouteArguments {
  const float* logits;    // (T, E)
  std::int32_t* experts;  // (T, S)
  float* weights;         // (T, S)
  std::int64_t logits_stride, experts_stride, weights_stride;
  std::int32_t tokens, count, top_k;  // T, E, S
};

// Whether (p, e) comes before (q, f) in the order of choice.
__device__ bool comes_before(float p, std::int32_t e, float q, std::int32_t f) {
  return p > q || (p == q && e < f);
}

__global__ void __launch_bounds__(kWarps * 32) moe_route_kernel(const RouteArguments a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto t = static_cast<std::int32_t>(blockIdx.x * kWarps + threadIdx.x / 32);
  pdl_launch_dependents();
  pdl_wait();
  if (t >= a.tokens) return;
  const float* logits = a.logits + t * a.logits_stride;
  std::int32_t* experts = a.experts + t * a.experts_stride;
  float* weights = a.weights + t * a.weights_stride;

  float greatest = -CUDART_INF_F, total = 0.0f;
  for (std::int32_t e = lane; e < a.count; e += 32) greatest = fmaxf(greatest, logits[e]);
  greatest = warp_max(greatest);
  for (std::int32_t e = lane; e < a.count; e += 32) total += expf(logits[e] - greatest);
  total = warp_sum(total);
  if (isnan(total)) {  // a NaN, a +∞, or nothing but −∞
    for (std::int32_t s = lane; s < a.top_k; s += 32) {
      experts[s] = s;
      weights[s] = CUDART_NAN_F;
    }
    return;
  }

  float last = CUDART_INF_F, chosen_total = 0.0f;
  std::int32_t last_expert = -1;
  for (std::int32_t s = 0; s < a.top_k; ++s) {
    float best = -1.0f;  // below every probability
    std::int32_t best_expert = a.count;
    for (std::int32_t e = lane; e < a.count; e += 32) {
      const float p = expf(logits[e] - greatest) / total;
      if (comes_before(last, last_expert, p, e) && comes_before(p, e, best, best_expert)) {
        best = p;
        best_expert = e;
      }
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const float p = __shfl_xor_sync(kFullWarp, best, offset);
      const std::int32_t e = __shfl_xor_sync(kFullWarp, best_expert, offset);
      if (comes_before(p, e, best, best_expert)) {
        best = p;
        best_expert = e;
      }
    }
    if (lane == 0) {
      experts[s] = best_expert;
      weights[s] = best;
    }
    chosen_total += best;
    last = best;
    last_expert = best_expert;
  }
  __syncwarp();  // lane 0's weights are there for the others
  for (std::int32_t s = lane; s < a.top_k; s += 32) weights[s] /= chosen_total;
}

}  // namespace

void moe_route(CudaContext& context, const MoeRouteCall& call) {
  const RouteArguments arguments{
      .logits = call.logits.as<const float>(),
      .experts = call.experts.as<std::int32_t>(),
      .weights = call.weights.as<float>(),
      .logits_stride = call.logits.stride(0),
      .experts_stride = call.experts.stride(0),
      .weights_stride = call.weights.stride(0),
      .tokens = static_cast<std::int32_t>(to_unsigned(call.logits.size(0))),
      .count = static_cast<std::int32_t>(to_unsigned(call.logits.size(1))),
      .top_k = static_cast<std::int32_t>(to_unsigned(call.experts.size(1)))};
  launch(context, moe_route_kernel, to_unsigned((call.logits.size(0) + kWarps - 1) / kWarps),
         kWarps * 32, 0, arguments);
}

}  // namespace engine::cuda
