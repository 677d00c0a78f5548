// The device memory of a backend: every allocation counted.
//
// Owned by the backend and outlives its buffers. Allocation and release may come from any thread.
#pragma once

#include <atomic>

#include "kernels/core/buffer.h"
#include "kernels/cuda/context.h"

namespace engine::cuda {

class DeviceMemory {
 public:
  explicit DeviceMemory(CudaContext& context) : context_(context) {}

  // Throws Error{kMemory} with need and free bytes.
  Buffer allocate(std::size_t bytes);
  // The most bytes in use at any one time.
  std::size_t peak() const { return peak_; }

 private:
  CudaContext& context_;
  std::atomic<std::size_t> used_ = 0, peak_ = 0;
};

}  // namespace engine::cuda
