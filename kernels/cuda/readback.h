// Small results on their way to the host: a ring of pinned slots, an event each, and a stream of
// their own, so that no kernel waits for a copy.
#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/context.h"

namespace engine::cuda {

class CudaReadback final : public Readback {
 public:
  CudaReadback(CudaContext& context, std::size_t bytes, int depth);
  ~CudaReadback() override;

  void push(const Tensor& source) override;
  void pop(void* destination) override;

 private:
  struct Slot {
    cudaEvent_t done = nullptr;
    std::size_t bytes = 0;  // of the result queued in it
  };
  void release();
  std::byte* memory(std::size_t slot) const { return memory_ + slot * slot_bytes_; }

  CudaContext& context_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t ready_ = nullptr;  // what the latest copy waits for
  std::size_t slot_bytes_;
  std::byte* memory_ = nullptr;  // (depth, slot_bytes) pinned
  std::vector<Slot> slots_;
  std::size_t pushed_ = 0, popped_ = 0;
};

}  // namespace engine::cuda
