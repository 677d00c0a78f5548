// The choice of experts for one token, by one warp.
#pragma once

#include <math_constants.h>

#include <cstdint>

#include "kernels/cuda/device/reduce.cuh"

namespace engine::cuda {

// Whether (p, e) comes before (q, f) in the order of choice.
__device__ inline bool comes_before(float p, std::int32_t e, float q, std::int32_t f) {
  return p > q || (p == q && e < f);
}

// What a token gets whose probabilities are no numbers: a logit is NaN or +∞, or all are −∞.
__device__ inline void leave_unrouted(std::int32_t top_k, std::int32_t* experts, float* weights) {
  for (std::int32_t s = static_cast<int>(threadIdx.x) % 32; s < top_k; s += 32) {
    experts[s] = s;
    weights[s] = CUDART_NAN_F;
  }
}

// route_token of up to 32 experts, a lane each, which has its expert's logit (−∞ from `count` on):
// a choice is one reduction.
__device__ inline void route_lanes(float logit, std::int32_t count, std::int32_t top_k,
                                   std::int32_t* experts, float* weights) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float greatest = warp_max(logit);
  const float exponential = expf(logit - greatest), total = warp_sum(exponential);
  if (isnan(total)) return leave_unrouted(top_k, experts, weights);
  // Numbers that aren't negative are ordered as their bits are; 0 has whoever isn't in question.
  unsigned key = lane < count ? __float_as_uint(exponential / total) + 1 : 0;
  float mine = 0.0f, chosen_total = 0.0f;
  for (std::int32_t s = 0; s < top_k; ++s) {
    const unsigned best = __reduce_max_sync(kFullWarp, key);
    const int expert = __ffs(static_cast<int>(__ballot_sync(kFullWarp, key == best))) - 1;
    const float p = __uint_as_float(best - 1);
    chosen_total += p;
    if (lane == s) mine = p, experts[s] = expert;
    if (lane == expert) key = 0;
  }
  if (lane < top_k) weights[lane] = mine / chosen_total;
}

// p = softmax(logits) over `count` experts, the `top_k` largest (ties to the lowest index) into
// `experts`, p ÷ Σ p of the chosen into `weights`; NaN weights where a logit is NaN. Each choice is
// the first, in descending order of p and then ascending index, behind the choice before it, so
// that nothing has to be marked as taken.
__device__ inline void route_token(const float* logits, std::int32_t count, std::int32_t top_k,
                                   std::int32_t* experts, float* weights) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (count <= 32) {
    const float logit = lane < count ? logits[lane] : -CUDART_INF_F;
    return route_lanes(logit, count, top_k, experts, weights);
  }
  float greatest = -CUDART_INF_F, total = 0.0f;
  for (std::int32_t e = lane; e < count; e += 32) greatest = fmaxf(greatest, logits[e]);
  greatest = warp_max(greatest);
  for (std::int32_t e = lane; e < count; e += 32) total += expf(logits[e] - greatest);
  total = warp_sum(total);
  if (isnan(total)) return leave_unrouted(top_k, experts, weights);

  float last = CUDART_INF_F, chosen_total = 0.0f;
  std::int32_t last_expert = -1;
  for (std::int32_t s = 0; s < top_k; ++s) {
    float best = -1.0f;  // below every probability
    std::int32_t best_expert = count;
    for (std::int32_t e = lane; e < count; e += 32) {
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
  for (std::int32_t s = lane; s < top_k; s += 32) weights[s] /= chosen_total;
}

}  // namespace engine::cuda
