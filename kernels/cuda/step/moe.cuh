// The stages of a mixture of experts: the router, computed by every block for itself so that no
// block waits for another, and down with the weighted sum.
#pragma once

#include "kernels/cuda/route.cuh"
#include "kernels/cuda/step/own_columns.cuh"

namespace engine::cuda {

// Logits of all experts, of whose router the ring has the rows, and the choice among them, into
// shared memory; tells the warps that fill. x is ready, with its values. Every thread that computes
// calls.
template <typename T>
__device__ __noinline__ void run_router() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  StepConsumer c(b);
  const StepOperand<T> operand(b, stage);
  const std::uint32_t x = operand_column<T, float>(operand);
  const int row_bytes = product_row_bytes<T, float>(stage);
  for (int first = 0; first < stage.experts; first += kStepRows) {
    run_tile<T, 0>(c, b, x, row_bytes, TileSums<float>{}, [&](float total) {
      const int expert = first + c.lane;
      if (c.lane < kStepRows && expert < stage.experts) b.logits[expert] = total;
    });
  }
  consumers_sync();  // every logit is in
  if (c.warp == 0) {
    await_heard(b);
    route_token(b.logits, stage.experts, stage.top_k, b.chosen, b.share);
    tell_choice(b);
  }
  consumers_sync();  // the choice is known
  c.leave(b);
}

// x of a stage whose router the warps hold, and the choice: it is known, to the warps that fill,
// before x has its digits. Every thread that computes calls.
template <typename T, bool kInt8>
__device__ __noinline__ void prepare_and_route() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  OperandVectors<T, 1, true> x(b, stage, 0);
  RouterPart<T> router;
  router.load(stage);
  x.await([] { return false; });
  stamp(b, 1);
  const float largest = x.template normalise<kInt8>(b, stage);
  x.store_values(b, stage);
  __syncwarp();  // the warp's elements of x are there
  const float share = router.times(StepOperand<T>(b, stage).values);
  const float logit = choose_experts(b, stage, share);
  if (threadIdx.x < 32) share_out(b, stage, logit, 1.0f);
  x.template store<kInt8, true>(b, stage, largest);
}

// A stage of kind kMoeUp.
template <typename T, typename Sum>
__device__ void run_moe_up(const StepStage& stage) {
  if (stage.holds_router && is_own(stage)) return run_own_product<T, false, true>();
  if (stage.holds_router) {
    prepare_and_route<T, std::is_same_v<Sum, int>>();
    stamp(step_shared(), 2);
  } else {
    prepare_operand<T>(stage, 0);
    stamp(step_shared(), 2);
    run_router<T>();
  }
  run_product<T, Sum>();
}

// x += Σ_s w_s · inner_s · Wdown_sᵀ, expert after expert.
template <typename T, typename Sum>
__device__ __noinline__ void run_moe_down() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  StepConsumer c(b);
  const StepOperand<T> operand(b, stage);
  const std::uint32_t x = operand_column<T, Sum>(operand);
  const int row_bytes = product_row_bytes<T, Sum>(stage);
  for (int s = 0; s < stage.top_k; ++s) {
    if (s > 0) consumers_sync();  // nobody reads the x of the expert before
    prepare_operand<T>(stage, s);
    const float share = b.share[s];
    const bool last = s + 1 == stage.top_k;
    const int first_tile = step_first_tile(b.block, b.blocks, stage.rotation);
    int mine = first_tile + c.next_finished() * b.blocks;
    TileFinish finish{};
    if (last && mine < stage.tiles) finish = fetch_finish<T>(b, stage, mine, 0, c.lane);
    int open = 0;
    for (int t = first_tile; t < stage.tiles; t += b.blocks, ++open) {
      run_tile<T, 0>(c, b, x, row_bytes, TileSums<Sum>{}, [&](float total) {
        float& sum = b.open[open][c.lane % kStepRows];
        const float so_far = (s == 0 ? 0.0f : sum) + share * total;
        if (!last) {
          __syncwarp();  // both lanes of a row have read it
          if (c.lane < kStepRows) sum = so_far;
          return;
        }
        finish_tile<T>(b, stage, so_far, finish, t, c.lane);
        mine += kStepWarps * b.blocks;
        if (mine < stage.tiles) finish = fetch_finish<T>(b, stage, mine, 0, c.lane);
      });
    }
  }
  c.leave(b);
}

}  // namespace engine::cuda
