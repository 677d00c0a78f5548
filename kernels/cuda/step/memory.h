// Memory of the device that the step kernel keeps to itself.
#pragma once

#include <cstddef>

#include "kernels/cuda/context.h"

namespace engine::cuda {

// Zeros at first; given back on destruction.
struct StepMemory {
  void* data = nullptr;
  int device;

  // Throws Error{kDevice} naming `what`.
  StepMemory(const CudaContext& context, std::size_t bytes, const char* what);
  ~StepMemory();
  StepMemory(const StepMemory&) = delete;
  StepMemory& operator=(const StepMemory&) = delete;
};

}  // namespace engine::cuda
