// The step kernel: a decode step, or a part of one, in a single launch of one block a
// multiprocessor.
//
// Each block has a few warps that fill a ring of shared memory with weights, in the order in which
// the block will need them, and sixteen that multiply. These wait for the elements of x that other
// blocks compute (step/exchange.cuh); the ring fills meanwhile, so memory streams across every
// dependency. Rows of a product are dealt out in tiles of 16, round robin over blocks (or nearly:
// step_stride) and on from where the stage before stopped, so that blocks get about the same bytes
// in the long run. Results do not depend on the number of slots, on which stages share a launch, or
// on timing: sums are added in a fixed order, so an op alone and an op in a recorded step give the
// same bits. Limit: bytes of weights and cache, read once. Shared memory: the ring, x of the
// present stage, StepShared. Blocks wait for each other, so all must be resident: the launch is
// cooperative.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/step/fill.cuh"
#include "kernels/cuda/step/launch_step.h"
#include "kernels/cuda/step/lower.h"
#include "kernels/cuda/step/moe.cuh"

namespace engine::cuda {
namespace {

template <typename T>
__device__ void run_embed(const StepShared& b, const StepStage& stage) {
  const int id = stage.ids[0];
  const bool known = id >= 0 && id < stage.rows;
  const T* row = static_cast<const T*>(stage.weight) +
                 static_cast<std::int64_t>(known ? id : 0) * stage.columns;
  for (int d = static_cast<int>(threadIdx.x); d < stage.columns; d += kStepConsumers) {
    publish(b, stage, d, static_cast<T*>(stage.out) + d, known ? row[d] : from_f32<T>(nanf("")));
  }
}

// Every thread that computes calls.
template <typename T>
__device__ void run_stage() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  switch (stage.kind) {
    case StepKind::kEmbed:
      return run_embed<T>(b, stage);
    case StepKind::kNorm:
      return stage.norm != nullptr ? run_norm<T, true>() : run_norm<T, false>();
    case StepKind::kAttention:
      return run_attention<T>();
    case StepKind::kProduct:
      return run_any_product<T>(stage);
    case StepKind::kMoeUp:
      return stage.int8_weight ? run_moe_up<T, int>(stage) : run_moe_up<T, float>(stage);
    case StepKind::kMoeDown:
      return stage.int8_weight ? run_moe_down<T, int>() : run_moe_down<T, float>();
  }
}

// Begins the stage whose turn it is, and returns whether the block has a part in it.
[[maybe_unused]] __device__ inline bool begin_stage() {
  StepShared& b = step_shared();
  const int thread = static_cast<int>(step_thread());
  const int index = step_place(b).index, next = index + 1;
  if (thread / 32 == 1 && next < b.count) copy_stage(b, &b.stage[next % 2], next, thread % 32);
  stamp(b, 0);
  const StepStage& stage = b.stage[index % 2];
  return step_first_tile(b.block, b.blocks, stage.rotation) < stage.tiles ||
         stage.kind == StepKind::kAttention || stage.kind == StepKind::kMoeUp;
}
[[maybe_unused]] __device__ inline void end_stage() {
  StepShared& b = step_shared();
  const unsigned thread = step_thread();
  stamp(b, 3);
  if (thread / 32 == 1) cp_async_wait<0>();
  __syncwarp();
  if (thread % 32 == 0) ++step_place(b).index;
}

// All stages. Nothing is kept across the calls here: it would be kept in local memory, and asked
// for while every other block waits.
template <typename T>
__device__ void run_stages() {
  StepShared& b = step_shared();
  if (step_thread() % 32 == 0) step_place(b) = {0, 0};
  for (;;) {
    consumers_sync();  // this stage is there, and nobody reads the one before
    if (step_place(b).index >= b.count) return;
    if (begin_stage()) run_stage<T>();
    end_stage();
  }
}

// The cosines and sines of the step's position.
[[maybe_unused]] __device__ void fetch_turns(StepShared& b, const StepPosition& at) {
  const int i = static_cast<int>(threadIdx.x);
  if (at.turns == nullptr || i >= at.turns_size) return;
  const int row = max(0, min(b.position, at.turns_rows - 1));
  b.turns[i] = at.turns[row * at.turns_stride + i];
}

// By one thread.
[[maybe_unused]] __device__ void begin_block(StepShared& b, const StepLaunch& launch) {
  char* ring = reinterpret_cast<char*>(&b) + kStepStaticBytes;
  b.stages = launch.program != nullptr ? launch.program : launch.inline_stages;
  b.stages_are_global = launch.program != nullptr;
  b.count = launch.count;
  b.control = launch.control;
  b.partials = launch.partials;
  b.timeline = launch.timeline;
  b.slots = ring;
  b.slot_count = launch.slots;
  b.x_area = ring + launch.slots * kStepSlotBytes;
  b.block = static_cast<int>(blockIdx.x);
  b.blocks = static_cast<int>(gridDim.x);
  b.position = launch.at.position != nullptr ? *launch.at.position : 0;
  b.parity = launch.control->parity & 1;
  b.exchange = launch.exchange + static_cast<std::int64_t>(b.parity) * launch.exchange_bank;
  for (int i = 0; i < launch.slots; ++i) {
    mbarrier_init(&b.full[i], kStepFillers);
    mbarrier_init(&b.empty[i], kStepSlotWarps);
  }
  for (int i = 0; i < kStepPartials; ++i) {
    mbarrier_init(&b.taken[i], 32);
  }
  mbarrier_init(&b.routed, 1);
  mbarrier_init(&b.heard, kStepFillers * 32);
  b.routes = 0;
  fence_mbarrier_init();
}

// A thread is launched with 96 registers. Warps that fill need fewer; with what they give back
// nothing of the others' is spilled, where a word costs a trip past an L1 that the ring leaves
// little of.
constexpr int kStepLaunchRegisters = 96, kStepFillerRegisters = 64, kStepConsumerRegisters = 104;
static_assert(kStepFillers * kStepFillerRegisters + kStepWarps * kStepConsumerRegisters <=
              (kStepFillers + kStepWarps) * kStepLaunchRegisters);
static_assert(kStepFillers % 4 == 0 && kStepWarps % 4 == 0, "registers move by warpgroups");

template <typename T>
__global__ void __launch_bounds__(kStepThreads, 1)
    step_kernel(const __grid_constant__ StepLaunch launch) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  StepShared& b = step_shared();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  pdl_launch_dependents();
  if (step_thread() == 0) begin_block(b, launch);
  __syncthreads();
  if (warp == 1) {
    copy_stage(b, &b.stage[0], 0, lane);
    cp_async_wait<0>();
  }
  if (warp >= kStepWarps) {
    give_registers_back<kStepFillerRegisters>();
    fill_ring<T>(b, warp - kStepWarps, lane);
  } else {
    take_registers<kStepConsumerRegisters>();
    clear_other_bank(b, launch);
    fetch_turns(b, launch.at);
    run_stages<T>();
  }
  __syncthreads();
  const auto last = static_cast<std::uint32_t>(b.blocks - 1);
  if (step_thread() == 0 && signal_exchange_increment(&b.control->exits, last) == last) {
    b.control->used[b.parity] = static_cast<std::uint32_t>(launch.exchange_used);
    b.control->used[b.parity ^ 1] = 0;
    b.control->parity = b.parity ^ 1;
  }
#endif
}

}  // namespace

void launch_step(CudaContext& context, const StepLaunch& step, DType dtype, int blocks) {
  const auto kernel = dtype == DType::kF16 ? step_kernel<__half> : step_kernel<__nv_bfloat16>;
  const int shared_bytes =
      static_cast<int>(kStepStaticBytes) + step.slots * kStepSlotBytes + step.x_bytes;
  context.check_launch(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                            cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            shared_bytes));
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(to_unsigned(blocks));
  config.blockDim = dim3(kStepThreads);
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = context.stream();
  config.attrs = &attribute;
  config.numAttrs = 1;
  context.check_launch(cudaLaunchKernelEx(&config, kernel, step));
}

static_assert(sizeof(StepShared) <= kStepStaticBytes, "lower.h leaves too little shared memory");

}  // namespace engine::cuda
