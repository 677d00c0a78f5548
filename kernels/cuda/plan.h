// A recorded step as a CUDA graph.
//
// Owned by the caller; destroyed before the backend. Used by one thread at a time.
#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/context.h"
#include "kernels/recorder.h"

namespace engine::cuda {

class CudaPlan final : public Plan {
 public:
  // Issues `calls` on `ops` under stream capture and keeps the graph; nothing is executed. On the
  // Hopper path the kernels' programmatic launches become programmatic edges.
  CudaPlan(CudaContext& context, Ops& ops, const std::vector<RecordedCall>& calls);
  ~CudaPlan() override;

  void run() override;

 private:
  CudaContext& context_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace engine::cuda
