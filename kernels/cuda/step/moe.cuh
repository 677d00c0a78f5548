// The stages of a mixture of experts: the router, computed by every block for itself so that no
// block waits for another, and down with the weighted sum.
#pragma once

#include "kernels/cuda/route.cuh"
#include "kernels/cuda/step/product.cuh"

namespace engine::cuda {

// Logits of all experts and the choice among them, into shared memory; tells the warp that fills.
// x is ready, with its values. Every thread that computes calls.
template <typename T>
__device__ __noinline__ void run_router() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  StepConsumer c(b);
  const StepOperand<T> operand(b.x_area, stage);
  const std::uint32_t x = operand_column<T, float>(operand);
  const int row_bytes = product_row_bytes<T, float>(stage);
  for (int first = 0; first < stage.experts; first += kStepRows) {
    run_tile<T, false>(c, b, x, row_bytes, TileSums<float>{}, [&](float total) {
      const int expert = first + c.lane;
      if (c.lane < kStepRows && expert < stage.experts) b.logits[expert] = total;
    });
  }
  consumers_sync();  // every logit is in
  if (c.warp == 0) {
    route_token(b.logits, stage.experts, stage.top_k, b.chosen, b.share);
    __syncwarp();
    if (c.lane == 0) mbarrier_arrive(shared_address(&b.routed));
  }
  consumers_sync();  // the choice is known
  c.leave(b);
}

// x += Σ_s w_s · inner_s · Wdown_sᵀ, expert after expert.
template <typename T, typename Sum>
__device__ __noinline__ void run_moe_down() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  StepConsumer c(b);
  const StepOperand<T> operand(b.x_area, stage);
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
      run_tile<T, false>(c, b, x, row_bytes, TileSums<Sum>{}, [&](float total) {
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
