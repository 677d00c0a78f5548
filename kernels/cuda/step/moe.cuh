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
  const int row_bytes = stage.columns * static_cast<int>(sizeof(T));
  for (int first = 0; first < stage.experts; first += kStepRows) {
    run_tile<T, false>(
        c, b, x, row_bytes, TileSums<float>{}, [] { return TileFinish{}; },
        [&](float total, TileFinish) {
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

// x += Σ_s w_s · inner_s · Wdown_sᵀ, expert after expert. With kHeld x, of up to as many vectors a
// thread, is prepared here, and there are first parts.
template <typename T, typename Sum, int kHeld>
__device__ __noinline__ void run_moe_down() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  constexpr bool kInt8 = std::is_same_v<Sum, int>;
  const StepOperand<T> operand(b.x_area, stage);
  const std::uint32_t x = operand_column<T, Sum>(operand);
  for (int s = 0; s < stage.top_k; ++s) {
    if (s > 0) consumers_sync();  // nobody reads the x of the expert before
    TileSums<Sum> begun;
    if constexpr (kHeld > 0) {
      begun = prepare_and_begin<T, Sum, kHeld, false>(b, stage, s, x);
    } else {
      prepare_operand<T>(stage, s);
    }
    StepConsumer c(b);
    const int row_bytes = stage.columns * static_cast<int>(kInt8 ? 1 : sizeof(T));
    const float share = b.share[s];
    const bool ends = s + 1 == stage.top_k;
    int tile = step_first_tile(b.block, b.blocks, stage.rotation), open = 0;
    const auto run = [&](auto is_begun, const TileSums<Sum>& sums) {
      run_tile<T, decltype(is_begun)::value>(
          c, b, x, row_bytes, sums,
          [&] { return ends ? fetch_finish<T>(b, stage, tile, 0, c.lane) : TileFinish{}; },
          [&](float total, TileFinish finish) {
            float& sum = b.open[open][c.lane % kStepRows];
            const float so_far = (s == 0 ? 0.0f : sum) + share * total;
            if (!ends) {
              __syncwarp();  // both lanes of a row have read it
              if (c.lane < kStepRows) sum = so_far;
              return;
            }
            finish_tile<T>(b, stage, so_far, finish, tile, c.lane);
          });
      tile += b.blocks;
      ++open;
    };
    if (kHeld > 0) run(std::bool_constant<(kHeld > 0)>{}, begun);
    while (tile < stage.tiles) run(std::false_type{}, TileSums<Sum>{});
    c.leave(b);
  }
}

template <typename T, typename Sum>
__device__ void run_moe_down_stage(const StepStage& stage) {
  if (has_first_parts<T, Sum>(stage) && stage.columns <= kStepConsumers * 32) {
    return run_moe_down<T, Sum, 4>();
  }
  run_moe_down<T, Sum, 0>();
}

}  // namespace engine::cuda
