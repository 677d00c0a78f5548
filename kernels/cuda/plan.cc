#include "kernels/cuda/plan.h"

#include "kernels/core/check.h"
#include "kernels/cuda/graph.h"

namespace engine::cuda {
CudaPlan::CudaPlan(CudaContext& context, Ops& ops, const std::vector<RecordedCall>& calls)
    : context_(context) {
  context_.make_current();
  context_.begin_op("the recording of a step");
  // Relaxed: first launches load modules, which the stricter modes forbid.
  check_cuda(cudaStreamBeginCapture(context_.stream(), cudaStreamCaptureModeRelaxed),
             "beginning a capture");
  CapturedGraph graph;
  try {
    for (const RecordedCall& recorded : calls) run_call(ops, recorded.call, recorded.scratch);
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
