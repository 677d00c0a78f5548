// The step kernel: a decode step, or a part of one, in a single launch of one block a
// multiprocessor.
//
// Each block has a few warps that fill a ring of shared memory with weights, in the order in which
// the block will need them, and sixteen that multiply. What a stage waits for is the end of the
// stage before it, announced by counters in global memory; the ring fills meanwhile, so memory
// streams across every dependency. Rows of a product are dealt out in tiles of 16, round robin over
// blocks and on from where the stage before stopped, so that blocks get the same bytes in the long
// run. Results do not depend on the number of slots, on which stages share a launch, or on timing:
// sums are added in a fixed order, so an op alone and an op in a recorded step give the same bits.
// Limit: bytes of weights and cache, read once. Shared memory: the ring, x of the present stage,
// StepShared. Blocks wait for each other, so all must be resident: the launch is cooperative.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/step/fill.cuh"
#include "kernels/cuda/step/launch_step.h"
#include "kernels/cuda/step/lower.h"
#include "kernels/cuda/step/moe.cuh"

namespace engine::cuda {
namespace {

template <typename T>
__device__ void run_embed(const StepStage& stage) {
  const int id = stage.ids[0];
  const bool known = id >= 0 && id < stage.rows;
  const T* row = static_cast<const T*>(stage.weight) +
                 static_cast<std::int64_t>(known ? id : 0) * stage.columns;
  for (int d = static_cast<int>(threadIdx.x); d < stage.columns; d += kStepConsumers) {
    static_cast<T*>(stage.out)[d] = known ? row[d] : from_f32<T>(nanf(""));
  }
}

// Takes and returns the state of the warp. Every thread that computes calls.
template <typename T>
__device__ unsigned run_stage(unsigned state, StepShared& b, const StepStage& stage, int index) {
  const T* x = static_cast<const T*>(stage.x);
  switch (stage.kind) {
    case StepKind::kEmbed:
    case StepKind::kNorm:
      if (stage.kind == StepKind::kEmbed) {
        await_stage(b, index);
        run_embed<T>(stage);
      } else {
        prepare_operand<T>(b, stage, x, index);
      }
      return state;
    case StepKind::kAttention:
      return run_attention<T>(state, b, stage, index);
    case StepKind::kProduct:
    case StepKind::kMoeUp: {
      const bool mixture = stage.kind == StepKind::kMoeUp;
      prepare_operand<T>(b, stage, x, index);
      stamp(b, index, 2);
      if (mixture) state = run_router<T>(state, b, stage);
      return stage.int8_weight ? run_product<T, int>(state, b, stage)
                               : run_product<T, float>(state, b, stage);
    }
    case StepKind::kMoeDown:
      return stage.int8_weight ? run_moe_down<T, int>(state, b, stage, index)
                               : run_moe_down<T, float>(state, b, stage, index);
  }
  return state;
}

template <typename T>
__device__ void run_stages(StepShared& b) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  unsigned state = 0;
  for (int i = 0; i < b.count; ++i) {
    consumers_sync();  // this stage is there, and nobody reads the one before
    const StepStage& stage = b.stage[i % 2];
    if (warp == 1) {
      if (i + 1 < b.count) copy_stage(&b.stage[(i + 1) % 2], b.stages + i + 1, lane);
    }
    stamp(b, i, 0);
    announce_stage(b, i);
    const int own = own_tiles(b, stage);
    if (threadIdx.x == 0) b.done = static_cast<std::uint32_t>(own);
    if (own > 0 || stage.kind == StepKind::kAttention || stage.kind == StepKind::kMoeUp) {
      state = run_stage<T>(state, b, stage, i);
    }
    stamp(b, i, 3);
    if (threadIdx.x == 0) b.awaited = static_cast<std::uint32_t>(stage.arrivals);
  }
}

// By one thread.
[[maybe_unused]] __device__ void begin_block(StepShared& b, const StepLaunch& launch, char* ring) {
  b.stages = launch.program != nullptr ? launch.program : launch.inline_stages;
  b.count = launch.count;
  b.control = launch.control;
  b.partials = launch.partials;
  b.timeline = launch.timeline;
  b.slots = ring;
  b.slot_count = launch.slots;
  b.x_area = ring + launch.slots * kStepSlotBytes;
  b.block = static_cast<int>(blockIdx.x);
  b.blocks = static_cast<int>(gridDim.x);
  b.parity = launch.control->parity & 1;
  b.signals = launch.control->signals[b.parity];
  b.awaited = b.done = 0;
  for (int i = 0; i < launch.slots; ++i) {
    mbarrier_init(&b.full[i], kStepFillers);
    mbarrier_init(&b.empty[i], kStepWarps);
  }
  for (int i = 0; i < kStepPartials; ++i) {
    mbarrier_init(&b.summed[i], kStepWarps);
    mbarrier_init(&b.taken[i], 1);
  }
  mbarrier_init(&b.routed, 1);
  fence_mbarrier_init();
}

template <typename T>
__global__ void __launch_bounds__(kStepThreads, 1)
    step_kernel(const __grid_constant__ StepLaunch launch) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char dynamic[];
  StepShared& b = *reinterpret_cast<StepShared*>(dynamic);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x == 0) begin_block(b, launch, dynamic + kStepStaticBytes);
  __syncthreads();
  if (warp == 1) copy_stage(&b.stage[0], b.stages, lane);
  if (b.block == b.blocks - 1) {  // for the next launch
    for (int i = static_cast<int>(threadIdx.x); i < kStepMaxStages; i += kStepThreads) {
      b.control->signals[b.parity ^ 1][i] = 0;
    }
  }
  if (warp >= kStepWarps) {
    fill_ring<T>(b, warp - kStepWarps, lane);
  } else {
    run_stages<T>(b);
  }
  __syncthreads();
  if (threadIdx.x == 0 &&
      signal_exchange_add(&b.control->exits, 1) + 1 == static_cast<std::uint32_t>(b.blocks)) {
    b.control->exits = 0;
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
