// The router of a mixture and the choice of experts, computed by every block for itself so that no
// block waits for another.
#pragma once

#include "kernels/cuda/route.cuh"
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
// elements of x which its lanes prepare, a vector each. Rows as in step/product.cuh.
template <typename T>
struct RouterPart {
  static constexpr int kSteps = 32 * 16 / 64;
  static_assert(kStepHeldExperts == 8, "a lane in four has a row");
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

// The warps' shares of the logits become a choice, by warp 0. `root` scales what they come to.
// Every warp that computes calls.
template <typename Root>
__device__ void choose_experts(StepShared& b, const StepStage& stage, float share, Root root) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (lane % 4 == 0) b.logits[warp * kStepHeldExperts + lane / 4] = share;
  if (warp != 0) return named_barrier_arrive(kStepLogitsBarrier, kStepConsumers);
  await_heard(b);
  named_barrier_sync(kStepLogitsBarrier, kStepConsumers);
  float logit = 0.0f;
#pragma unroll
  for (int w = 0; w < kStepWarps; ++w) {
    logit += b.logits[w * kStepHeldExperts + lane % kStepHeldExperts];
  }
  logit = lane < stage.experts ? logit * root() : -CUDART_INF_F;
  route_lanes(logit, stage.experts, stage.top_k, b.chosen, b.share, [&] { tell_choice(b); });
}

}  // namespace engine::cuda
