#include "kernels/cuda/step/timeline.h"

#include <cstdint>
#include <fstream>
#include <utility>
#include <vector>

#include "kernels/cuda/step/control.h"

namespace engine::cuda {
namespace {

const char* name_of(const StepStage& stage) {
  switch (stage.kind) {
    case StepKind::kEmbed:
      return "embed";
    case StepKind::kNorm:
      return "norm";
    case StepKind::kAttention:
      return "attention";
    case StepKind::kMoeUp:
      return "router, gate, up";
    case StepKind::kMoeDown:
      return "down of the experts";
    case StepKind::kProduct:
      break;
  }
  if (stage.epilogue == StepEpilogue::kRope) return "q, k, v";
  if (stage.epilogue == StepEpilogue::kSilu) return "gate, up";
  return stage.residual != nullptr ? "product + residual" : "product";
}

std::int64_t weight_bytes(const StepStage& stage) {
  if (stage.kind == StepKind::kEmbed || stage.kind == StepKind::kNorm ||
      stage.kind == StepKind::kAttention) {
    return 0;
  }
  const std::int64_t matrices = stage.top_k > 0 ? stage.top_k : 1;
  return matrices * stage.rows * stage.columns * (stage.int8_weight ? 1 : 2);
}

}  // namespace

StepTimeline::StepTimeline(const CudaContext& context, std::string file)
    : context_(context), file_(std::move(file)) {}

long long* StepTimeline::readings(const StepProgram& program) {
  if (program.stages.size() != program_.stages.size()) memory_.reset();
  program_ = program;
  if (memory_ == nullptr) {
    memory_ = std::make_unique<StepMemory>(context_,
                                           program.stages.size() *
                                               static_cast<std::size_t>(program.blocks) *
                                               kStepStamps * sizeof(long long),
                                           "reserving a time line");
  }
  return static_cast<long long*>(memory_->data);
}

StepTimeline::~StepTimeline() {
  if (memory_ == nullptr) return;
  const auto blocks = static_cast<std::size_t>(program_.blocks);
  std::vector<long long> readings(program_.stages.size() * blocks * kStepStamps);
  if (cudaDeviceSynchronize() != cudaSuccess ||
      cudaMemcpy(readings.data(), memory_->data, readings.size() * sizeof(long long),
                 cudaMemcpyDeviceToHost) != cudaSuccess) {
    return;
  }
  std::ofstream out(file_);
  out << "stage,name,weight_bytes,blocks,wait_cycles,prepare_cycles,run_cycles,gap_cycles\n";
  for (std::size_t s = 0; s < program_.stages.size(); ++s) {
    double wait = 0.0, prepare = 0.0, run = 0.0, gap = 0.0;
    int counted = 0;
    for (std::size_t b = 0; b < blocks; ++b) {
      const long long* at = readings.data() + (s * blocks + b) * kStepStamps;
      if (at[1] < at[0]) continue;  // it had no part in the stage
      const long long ready = at[2] > at[1] ? at[2] : at[1];
      wait += static_cast<double>(at[1] - at[0]);
      prepare += static_cast<double>(ready - at[1]);
      run += static_cast<double>(at[3] - ready);
      if (s + 1 < program_.stages.size()) {
        gap += static_cast<double>(at[blocks * kStepStamps] - at[3]);
      }
      ++counted;
    }
    const double share = counted > 0 ? 1.0 / counted : 0.0;
    out << s << ',' << '"' << name_of(program_.stages[s]) << '"' << ','
        << weight_bytes(program_.stages[s]) << ',' << counted << ',' << wait * share << ','
        << prepare * share << ',' << run * share << ',' << gap * share << '\n';
  }
}

}  // namespace engine::cuda
