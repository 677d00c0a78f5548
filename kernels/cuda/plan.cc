#include "kernels/cuda/plan.h"

#include "kernels/core/check.h"

namespace engine::cuda {
namespace {

// Owns a graph between its capture and its instantiation.
struct CapturedGraph {
  cudaGraph_t handle = nullptr;
  ~CapturedGraph() {
    if (handle != nullptr) cudaGraphDestroy(handle);
  }
};

// Throws if the graph holds anything but kernels: a memset or a copy would break the chain of
// programmatic edges, and a host node would make a step wait for the host.
void require_kernels_only(const CudaContext& context, cudaGraph_t graph) {
  std::size_t count = 0;
  context.check_launch(cudaGraphGetNodes(graph, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  context.check_launch(cudaGraphGetNodes(graph, nodes.data(), &count));
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type{};
    context.check_launch(cudaGraphNodeGetType(node, &type));
    ENGINE_REQUIRE(type == cudaGraphNodeTypeKernel, "CUDA: a recorded step holds a node of type ",
                   static_cast<int>(type), ", expected kernels only");
  }
}

}  // namespace

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
  require_kernels_only(context_, graph.handle);
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
