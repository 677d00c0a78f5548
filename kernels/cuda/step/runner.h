// Runs programs of the step kernel: ops of one token as they come, and recorded steps.
//
// Owned by the backend's ops; used by one thread at a time, on the context's stream.
#pragma once

#include <memory>

#include "kernels/cuda/context.h"
#include "kernels/cuda/step/control.h"
#include "kernels/cuda/step/lower.h"
#include "kernels/cuda/step/memory.h"
#include "kernels/cuda/step/timeline.h"

namespace engine::cuda {

class StepRunner {
 public:
  explicit StepRunner(CudaContext& context);

  // A program on the device.
  struct Loaded {
    StepMemory stages;
    StepState state;
  };

  // Issues an op of one token and returns true, or false where the step kernel does not serve it.
  template <typename C, typename... Scratch>
  bool run(const C& call, Scratch... scratch) {
    StepProgram program;
    if (!lower_call(context_.arch(), call, scratch..., &program)) return false;
    if (program.exchange > state_.bank) return false;
    launch(program, nullptr);
    return true;
  }

  // Copies the stages to the device: what launch() takes later. Blocks.
  std::unique_ptr<Loaded> load(const StepProgram& program) const;
  // Issues a program; `loaded` is that of load(), or null, and then its stages travel with the
  // launch.
  void launch(const StepProgram& program, const Loaded* loaded);

 private:
  CudaContext& context_;
  StepState state_;  // of ops as they come
  StepMemory partials_;
  std::unique_ptr<StepTimeline> timeline_;  // where ENGINE_STEP_TIMELINE names a file
};

}  // namespace engine::cuda
