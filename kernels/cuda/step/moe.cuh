// The stages of a mixture of experts: the router, computed by every block for itself so that no
// block waits for another, and down with the weighted sum.
#pragma once

#include "kernels/cuda/route.cuh"
#include "kernels/cuda/step/own_columns.cuh"

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

// A warp's part of a router of up to kStepHeldExperts rows, in registers: the columns that meet the
// elements of x which its lanes prepare, a vector each: adjacent ones, or, with kByRounds, those
// that are its own in rows of 16-bit weights (OwnVector). Rows as in step/product.cuh.
template <typename T, bool kByRounds>
struct RouterPart {
  static constexpr int kSteps = 32 * 16 / 64;
  static_assert(kStepHeldExperts == 8, "a lane in four has a row");
  uint4 row[kSteps];
  int row_bytes;

  // Where the lane's 16 bytes of a step are within a row.
  __device__ static int place(int step) {
    constexpr int kOfRound = kByRounds ? kStepPart / 64 : kSteps;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    return step / kOfRound * kStepRound + (warp * kOfRound + step % kOfRound) * 64 + lane % 4 * 16;
  }
  __device__ explicit RouterPart(const StepStage& stage)
      : row_bytes(stage.columns * static_cast<int>(sizeof(T))) {
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

// x of a stage whose router the warps hold, and the choice: it is known, to the warps that fill,
// before x has its digits. Every thread that computes calls.
template <typename T, bool kInt8>
__device__ __noinline__ void prepare_and_route() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  OperandVectors<T, 1, true> x(b, stage, 0);
  const RouterPart<T, false> router(stage);
  x.await([] { return false; });
  stamp(b, 1);
  const float largest = x.template normalise<kInt8>(b, stage);
  x.store_values(b, stage);
  __syncwarp();  // the warp's elements of x are there
  const float share = router.times(StepOperand<T>(b, stage).values);
  choose_experts(b, stage, share, [] { return 1.0f; });
  x.template store<kInt8, true>(b, stage, largest);
}

// The same, and gate and up of the experts chosen, where a warp needs but its own columns of x.
template <typename T, typename Sum, int kSlots>
__device__ __noinline__ void run_own_mixture() {
  constexpr bool kInt8 = std::is_same_v<Sum, int>;
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  OwnVector<T, Sum, true> vector(b, stage);
  const RouterPart<T, !kInt8> router(stage);
  ProductTiles<T> tiles(b, stage, StepConsumer(b));
  const auto complete = [&] {
    vector.await([] { return false; });
    stamp(b, 1);
    const StepOperand<T> operand(b, stage);
    float x[8];
    vector.read(b, x);
    OwnUnit unit{vector.store_values(operand, stage, x), 1.0f};
    __syncwarp();  // the warp's elements of x are there
    const float share = router.times(operand.values) * unit.factor;
    choose_experts(b, stage, share, [&] { return own_root(b, stage); });
    if constexpr (kInt8) {
      unit = vector.store_digits(operand, x);
      __syncwarp();  // and their digits
    }
    const OwnOperand<kSlots> own(operand_column<T, Sum>(operand), unit);
    stamp(b, 2);
    return own;
  };
  run_own_tiles<T, Sum, kSlots, true, false>(tiles, complete(), TileSums<Sum>{});
}

// A stage of kind kMoeUp.
template <typename T, typename Sum>
__device__ void run_moe_up(const StepStage& stage) {
  if (stage.holds_router) {
    const int slots = own_slots<T, Sum>(stage);
    if (slots == 1) return run_own_mixture<T, Sum, 1>();
    if constexpr (std::is_same_v<Sum, float>) {
      if (slots == 2) return run_own_mixture<T, Sum, 2>();
    }
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
