// The time line of a recorded step, for people who tune it: ENGINE_STEP_TIMELINE=FILE.csv.
//
// Each block notes its multiprocessor's clock as it goes through the stages; when the backend goes,
// the readings of the last recorded step that ran are summed up, a line a stage: how long blocks
// waited for the stage before, prepared x, multiplied, and stood until the next stage, as means
// over the blocks that took part, in cycles, beside the bytes of weights that the stage reads.
#pragma once

#include <memory>
#include <string>

#include "kernels/cuda/step/lower.h"
#include "kernels/cuda/step/memory.h"

namespace engine::cuda {

class StepTimeline {
 public:
  StepTimeline(const CudaContext& context, std::string file);
  ~StepTimeline();  // writes the file
  StepTimeline(const StepTimeline&) = delete;
  StepTimeline& operator=(const StepTimeline&) = delete;

  // Where a launch of `program` notes its readings.
  long long* readings(const StepProgram& program);

 private:
  const CudaContext& context_;
  std::string file_;
  StepProgram program_;
  std::unique_ptr<StepMemory> memory_;
};

}  // namespace engine::cuda
