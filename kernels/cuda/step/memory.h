// Memory of the device that the step kernel keeps to itself.
#pragma once

#include <cstddef>

#include "kernels/cuda/context.h"

namespace engine::cuda {

// Every byte is `fill` at first; given back on destruction.
struct StepMemory {
  void* data = nullptr;
  int device;

  // Throws Error{kDevice} naming `what`.
  StepMemory(const CudaContext& context, std::size_t bytes, const char* what, int fill = 0);
  ~StepMemory();
  StepMemory(const StepMemory&) = delete;
  StepMemory& operator=(const StepMemory&) = delete;
};

// What launches of one program, one after the other, keep between them.
struct StepState {
  StepMemory control;   // StepControl
  StepMemory exchange;  // two banks of `bank` elements
  std::size_t bank;

  StepState(const CudaContext& context, std::size_t elements);
};

}  // namespace engine::cuda
