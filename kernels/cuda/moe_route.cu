// moe_route: p = softmax(logits) over E in fp32, the S largest (ties to the lowest index),
// w_s = p_s ÷ Σ p of the chosen.
//
// Layout: logits (T, E), experts and weights (T, S), strided. A warp routes a token (route.cuh).
// Limit: latency.
#include <cstdint>

#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/route.cuh"

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

__global__ void __launch_bounds__(kWarps * 32) moe_route_kernel(const RouteArguments a) {
  const auto t = static_cast<std::int32_t>(blockIdx.x * kWarps + threadIdx.x / 32);
  pdl_launch_dependents();
  pdl_wait();
  if (t >= a.tokens) return;
  const float* logits = a.logits + t * a.logits_stride;
  std::int32_t* experts = a.experts + t * a.experts_stride;
  float* weights = a.weights + t * a.weights_stride;

  route_token(logits, a.count, a.top_k, experts, weights);
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
