// The router of a mixture and the choice of experts, computed by every block for itself so that no
// block waits for another.
#pragma once

#include <math_constants.h>

#include "kernels/cuda/device/order_key.cuh"
#include "kernels/cuda/step/product.cuh"

namespace engine::cuda {

// A choice may be written: the warps that fill are done with the one before. By a warp.
__device__ inline void await_heard(StepShared& b) {
  mbarrier_wait(shared_address(&b.heard), (b.routes & 1) ^ 1);
}
// It is written. By every lane of that warp.
__device__ inline void tell_choice(StepShared& b) {
  __syncwarp();
  if (threadIdx.x % 32 != 0) return;
  ++b.routes;
  mbarrier_arrive(shared_address(&b.routed));
}

// A warp's part of a router of up to kStepHeldExperts rows, in registers: the columns that meet the
// elements of x which its lanes prepare, a vector each. Rows as in step/product.cuh. Every block
// has all of the router, so it is asked for before x: by the warps themselves, or, where a row is
// kStepRouterRow bytes, through the ring, as a slot for each group of warps with a row of an expert
// in two of its own (fill.cuh).
template <typename T>
struct RouterPart {
  static constexpr int kSteps = 32 * 16 / 64;
  static_assert(kStepHeldExperts == 8, "a lane in four has a row");
  static_assert(kStepSlotWarps * kSteps * 64 == kStepRouterPart);
  uint4 row[kSteps];
  int row_bytes;

  // Where the lane's 16 bytes of a step are within a row.
  __device__ static int place(int step) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    return (warp * kSteps + step) * 64 + lane % 4 * 16;
  }
  __device__ void load(const StepStage& stage) {
    row_bytes = stage.columns * static_cast<int>(sizeof(T));
    const int expert = static_cast<int>(threadIdx.x) % 32 / 4;
    const char* source = static_cast<const char*>(stage.router) + expert * row_bytes;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const bool exists = expert < stage.experts && place(i) < row_bytes;
      row[i] = exists ? load_constant(source + place(i)) : make_uint4(0, 0, 0, 0);
    }
  }
  // From the ring, whose next slots it has.
  __device__ void take(StepShared& b, const StepStage& stage) {
    StepConsumer c(b);
    const int expert = c.lane / 4, within = c.warp % kStepSlotWarps * kSteps * 64 + c.lane % 4 * 16;
    const int place = step_row_place(2 * expert + within / kStepChunk) + within % kStepChunk;
    row_bytes = kStepRouterRow;
    StepRing own = c.ring;
    own.advance(c.warp / kStepSlotWarps);
    c.wait_slot(own);
    const bool exists = expert < stage.experts;
#pragma unroll
    for (unsigned i = 0; i < kSteps; ++i) {
      row[i] = exists ? load_shared(own.slot() + static_cast<std::uint32_t>(place) + i * 64)
                      : make_uint4(0, 0, 0, 0);
    }
    c.release_slot(own);
    c.ring.advance(kStepGroups);
    c.leave(b);
  }
  // Times the warp's values of x, at shared address `x`; every fourth lane has its expert's sum.
  __device__ float times(std::uint32_t x) const {
    const std::uint32_t column = x + threadIdx.x % 32 / 4 % 2 * 8;
    float sums[2][4] = {};
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      uint2 value = make_uint2(0, 0);
      if (place(i) < row_bytes) {
        value = load_shared_pair(column + static_cast<std::uint32_t>(place(i)));
      }
      multiply<T>(sums[i % 2], row[i], value);
    }
    return (sums[0][0] + sums[1][0]) + (sums[0][3] + sums[1][3]);
  }
};

// The warps' shares of the logits become a choice, by warp 0: the greatest, in their order, of
// equal ones the first. Nothing that comes to all of them alike has to be known yet. Returns, to
// warp 0, lane s, the logit of choice s; NaN where the logits are no numbers to choose by. Every
// warp that computes calls.
__device__ inline float choose_experts(StepShared& b, const StepStage& stage, float share) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (lane % 4 == 0) b.logits[warp * kStepHeldExperts + lane / 4] = share;
  if (warp != 0) {
    named_barrier_arrive(kStepLogitsBarrier, kStepConsumers);
    return 0.0f;
  }
  await_heard(b);
  named_barrier_sync(kStepLogitsBarrier, kStepConsumers);
  float logit = 0.0f;
#pragma unroll
  for (int w = 0; w < kStepWarps; ++w) {
    logit += b.logits[w * kStepHeldExperts + lane % kStepHeldExperts];
  }
  const bool exists = lane < stage.experts;
  const bool routed = __all_sync(kFullWarp, !exists || logit < CUDART_INF_F) &&
                      __any_sync(kFullWarp, exists && logit > -CUDART_INF_F);
  unsigned key = !exists ? 0 : routed ? order_key(logit) : ~static_cast<unsigned>(lane);
  unsigned mine = 0;
#pragma unroll 1
  for (std::int32_t s = 0; s < stage.top_k; ++s) {
    const unsigned best = __reduce_max_sync(kFullWarp, key);
    const int expert = __ffs(static_cast<int>(__ballot_sync(kFullWarp, key == best))) - 1;
    if (lane == s) mine = best, b.chosen[s] = expert;
    if (lane == expert) key = 0;
  }
  tell_choice(b);
  return routed ? from_order_key(mine) : CUDART_NAN_F;
}

// The shares of the choices, which are a softmax over `logit` times `scale`, as choose_experts
// returns them. Warp 0 calls.
__device__ inline void share_out(StepShared& b, const StepStage& stage, float logit, float scale) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float greatest = __shfl_sync(kFullWarp, logit, 0);
  const float share = lane < stage.top_k ? expf((logit - greatest) * scale) : 0.0f;
  const float total = warp_sum(share);
  if (lane < stage.top_k) b.share[lane] = share / total;
}

}  // namespace engine::cuda
