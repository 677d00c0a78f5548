#include "kernels/cuda/step/runner.h"

#include <algorithm>
#include <cstdlib>

#include "kernels/core/check.h"
#include "kernels/cuda/step/launch_step.h"

namespace engine::cuda {

StepMemory::StepMemory(const CudaContext& context, std::size_t bytes, const char* what)
    : device(context.index()) {
  check_cuda(cudaMalloc(&data, bytes), what);
  if (const cudaError_t status = cudaMemset(data, 0, bytes); status != cudaSuccess) {
    cudaFree(data);
    check_cuda(status, what);
  }
}

StepMemory::~StepMemory() {
  cudaSetDevice(device);
  cudaFree(data);
}

StepRunner::StepRunner(CudaContext& context)
    : context_(context),
      control_(context, sizeof(StepControl), "reserving the signals of decode steps"),
      partials_(context,
                static_cast<std::size_t>(context.arch().sms * kStepHeadTile *
                                         step_record_floats(kStepMaxHeadSize)) *
                    sizeof(float),
                "reserving the partial sums of attention") {
  if (const char* file = std::getenv("ENGINE_STEP_TIMELINE"); file != nullptr && *file != '\0') {
    timeline_ = std::make_unique<StepTimeline>(context, file);
  }
}

std::unique_ptr<StepMemory> StepRunner::load(const StepProgram& program) const {
  const std::size_t bytes = program.stages.size() * sizeof(StepStage);
  auto memory = std::make_unique<StepMemory>(context_, bytes, "reserving a recorded step");
  check_cuda(cudaMemcpy(memory->data, program.stages.data(), bytes, cudaMemcpyHostToDevice),
             "writing a recorded step");
  return memory;
}

void StepRunner::launch(const StepProgram& program, const StepStage* stages) {
  StepLaunch step;
  step.program = stages;
  step.count = static_cast<std::int32_t>(program.stages.size());
  step.slots = step_slots(context_.arch(), program.x_bytes, kStepStaticBytes);
  step.x_bytes = static_cast<std::int32_t>(program.x_bytes);
  step.control = static_cast<StepControl*>(control_.data);
  step.partials = static_cast<float*>(partials_.data);
  if (stages != nullptr && timeline_ != nullptr) step.timeline = timeline_->readings(program);
  if (stages == nullptr) {
    ENGINE_REQUIRE(program.stages.size() <= std::size_t{kStepInlineStages}, "a launch of ",
                   program.stages.size(), " stages that were not loaded");
    std::copy(program.stages.begin(), program.stages.end(), step.inline_stages);
  }
  launch_step(context_, step, program.dtype, program.blocks);
}

}  // namespace engine::cuda
