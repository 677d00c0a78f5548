// A recorded step as a CUDA graph.
//
// Owned by the caller; destroyed before the backend. Used by one thread at a time.
#pragma once

#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/recorder.h"

namespace engine::cuda {

class CudaPlan final : public Plan {
 public:
  // Lowers the calls that the step kernel serves, as many neighbours as there are to a launch,
  // issues all on `ops` under stream capture and keeps the graph; nothing is executed. On the
  // Hopper path the programmatic launches of other kernels become programmatic edges.
  CudaPlan(CudaContext& context, CudaOps& ops, const std::vector<RecordedCall>& calls);
  ~CudaPlan() override;

  void run() override;

 private:
  CudaContext& context_;
  std::vector<std::unique_ptr<StepRunner::Loaded>> programs_;  // on the device
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace engine::cuda
