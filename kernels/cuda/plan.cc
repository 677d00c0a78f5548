#include "kernels/cuda/plan.h"

#include <utility>

#include "kernels/core/check.h"
#include "kernels/cuda/graph.h"

namespace engine::cuda {
namespace {

// What a graph issues: a program of the step kernel, or, where there is none, one call.
struct Part {
  StepProgram program;
  const StepRunner::Loaded* loaded = nullptr;  // the program, on the device
  const RecordedCall* call = nullptr;
};

std::vector<Part> lower(const CudaArch& arch, const std::vector<RecordedCall>& calls) {
  std::vector<Part> parts;
  bool open = false;  // the last part may take more stages
  for (const RecordedCall& recorded : calls) {
    StepProgram fresh;
    if (open && lower_call(arch, recorded.call, recorded.scratch, &parts.back().program)) continue;
    open = lower_call(arch, recorded.call, recorded.scratch, &fresh);
    parts.push_back({std::move(fresh), nullptr, open ? nullptr : &recorded});
  }
  return parts;
}

}  // namespace

CudaPlan::CudaPlan(CudaContext& context, CudaOps& ops, const std::vector<RecordedCall>& calls)
    : context_(context) {
  context_.make_current();
  context_.begin_op("the recording of a step");
  std::vector<Part> parts = lower(context_.arch(), calls);
  for (Part& part : parts) {
    if (part.call != nullptr) continue;
    programs_.push_back(ops.steps().load(part.program));
    part.loaded = programs_.back().get();
  }
  // Relaxed: first launches load modules, which the stricter modes forbid.
  check_cuda(cudaStreamBeginCapture(context_.stream(), cudaStreamCaptureModeRelaxed),
             "beginning a capture");
  CapturedGraph graph;
  try {
    for (const Part& part : parts) {
      if (part.call != nullptr) {
        run_call(ops, part.call->call, part.call->scratch);
      } else {
        ops.steps().launch(part.program, part.loaded);
      }
    }
  } catch (...) {
    cudaStreamEndCapture(context_.stream(), &graph.handle);
    static_cast<void>(cudaGetLastError());
    throw;
  }
  check_cuda(cudaStreamEndCapture(context_.stream(), &graph.handle), "ending a capture");
  ENGINE_REQUIRE(graph.holds_kernels_only(), "CUDA: a recorded step holds more than kernels");
  check_cuda(cudaGraphInstantiate(&graph_, graph.handle, 0), "instantiating a recorded step");
  check_cuda(cudaGraphUpload(graph_, context_.stream()), "uploading a recorded step");
}

CudaPlan::~CudaPlan() {
  cudaSetDevice(context_.index());
  cudaStreamSynchronize(context_.stream());  // it may still be running
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

void CudaPlan::run() {
  context_.require_not_recording("the run of another step");
  context_.make_current();
  context_.begin_op("a recorded step");
  context_.check_launch(cudaGraphLaunch(graph_, context_.stream()));
}

}  // namespace engine::cuda
