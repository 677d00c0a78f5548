// A captured graph, owned between its capture and its instantiation.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

#include "kernels/cuda/context.h"

namespace engine::cuda {

struct CapturedGraph {
  cudaGraph_t handle = nullptr;

  CapturedGraph() = default;
  ~CapturedGraph() {
    if (handle != nullptr) cudaGraphDestroy(handle);
  }
  CapturedGraph(const CapturedGraph&) = delete;
  CapturedGraph& operator=(const CapturedGraph&) = delete;

  // No copy, memset or host node, which would break a chain of programmatic edges.
  bool holds_kernels_only() const {
    std::size_t count = 0;
    check_cuda(cudaGraphGetNodes(handle, nullptr, &count), "reading a graph");
    std::vector<cudaGraphNode_t> nodes(count);
    check_cuda(cudaGraphGetNodes(handle, nodes.data(), &count), "reading a graph");
    for (const cudaGraphNode_t node : nodes) {
      cudaGraphNodeType type{};
      check_cuda(cudaGraphNodeGetType(node, &type), "reading a graph");
      if (type != cudaGraphNodeTypeKernel) return false;
    }
    return true;
  }
};

}  // namespace engine::cuda
