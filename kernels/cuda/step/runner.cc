#include "kernels/cuda/step/runner.h"

#include <algorithm>
#include <cstdlib>

#include "kernels/core/check.h"
#include "kernels/cuda/step/launch_step.h"

namespace engine::cuda {

namespace {

// Elements that the stages of one op leave for each other, at the most.
constexpr std::size_t kOpExchange = std::size_t{1} << 19;

}  // namespace

StepMemory::StepMemory(const CudaContext& context, std::size_t bytes, const char* what, int fill)
    : device(context.index()) {
  check_cuda(cudaMalloc(&data, bytes), what);
  if (const cudaError_t status = cudaMemset(data, fill, bytes); status != cudaSuccess) {
    cudaFree(data);
    check_cuda(status, what);
  }
}

StepMemory::~StepMemory() {
  cudaSetDevice(device);
  cudaFree(data);
}

StepState::StepState(const CudaContext& context, std::size_t elements)
    : control(context, sizeof(StepControl), "reserving the counters of decode steps"),
      exchange(context, std::max<std::size_t>(2 * elements * sizeof(std::uint16_t), 16),
               "reserving the exchange of decode steps", 0xff),
      bank(elements) {}

StepRunner::StepRunner(CudaContext& context)
    : context_(context),
      state_(context, kOpExchange),
      partials_(context,
                static_cast<std::size_t>(context.arch().sms * kStepHeadTile *
                                         step_record_floats(kStepMaxHeadSize)) *
                    sizeof(float),
                "reserving the partial sums of attention") {
  if (const char* file = std::getenv("ENGINE_STEP_TIMELINE"); file != nullptr && *file != '\0') {
    timeline_ = std::make_unique<StepTimeline>(context, file);
  }
}

std::unique_ptr<StepRunner::Loaded> StepRunner::load(const StepProgram& program) const {
  const std::size_t bytes = program.stages.size() * sizeof(StepStage);
  std::unique_ptr<Loaded> loaded(
      new Loaded{{context_, bytes, "reserving a recorded step"}, {context_, program.exchange}});
  check_cuda(cudaMemcpy(loaded->stages.data, program.stages.data(), bytes, cudaMemcpyHostToDevice),
             "writing a recorded step");
  return loaded;
}

void StepRunner::launch(const StepProgram& program, const Loaded* loaded) {
  const StepState& state = loaded != nullptr ? loaded->state : state_;
  StepLaunch step;
  step.program = loaded != nullptr ? static_cast<const StepStage*>(loaded->stages.data) : nullptr;
  step.count = static_cast<std::int32_t>(program.stages.size());
  step.slots = step_slots(context_.arch(), program.x_bytes, kStepStaticBytes);
  step.x_bytes = static_cast<std::int32_t>(program.x_bytes);
  step.at = program.at;
  step.control = static_cast<StepControl*>(state.control.data);
  step.exchange = static_cast<std::uint16_t*>(state.exchange.data);
  step.exchange_bank = static_cast<std::int32_t>(state.bank);
  step.exchange_used = static_cast<std::int32_t>(program.exchange);
  step.partials = static_cast<float*>(partials_.data);
  if (loaded != nullptr && timeline_ != nullptr) step.timeline = timeline_->readings(program);
  if (loaded == nullptr) {
    ENGINE_REQUIRE(program.stages.size() <= std::size_t{kStepInlineStages}, "a launch of ",
                   program.stages.size(), " stages that were not loaded");
    std::copy(program.stages.begin(), program.stages.end(), step.inline_stages);
  }
  launch_step(context_, step, program.dtype, program.blocks);
}

}  // namespace engine::cuda
