// Scratch memory of a step: a bump arena passed by value.
//
// A copy is a scope: what a callee takes from its copy is free again when it returns, because the
// caller's offset has not moved. Nothing is allocated while a step runs. A Workspace without memory
// (Workspace::dry_run) hands out addresses nobody may touch and notes the most that was in use, so
// that a step's need is measured by running the step itself on ops that do nothing.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/core/check.h"
#include "kernels/core/tensor.h"

namespace engine {

class Workspace {
 public:
  // Every tensor starts on a multiple of this, which suits vector loads and bulk copies.
  static constexpr std::size_t kAlignment = 256;

  Workspace() = default;
  Workspace(void* base, std::size_t capacity, Device device)
      : base_(reinterpret_cast<std::uintptr_t>(base)), capacity_(capacity), device_(device) {}

  // An arena without memory; the most bytes ever in use go to *peak.
  static Workspace dry_run(Device device, std::size_t* peak) {
    Workspace workspace(nullptr, std::numeric_limits<std::size_t>::max() / 2, device);
    workspace.base_ = kAlignment;  // never null, so that tensors count as present
    workspace.peak_ = peak;
    return workspace;
  }

  // A row-major tensor of uninitialised elements.
  Tensor take(DType dtype, Shape shape) {
    const Tensor tensor =
        Tensor::contiguous(reinterpret_cast<void*>(base_ + used_), dtype, device_, shape);
    const std::size_t bytes = (tensor.bytes() + kAlignment - 1) / kAlignment * kAlignment;
    ENGINE_REQUIRE(bytes <= capacity_ - used_, "workspace of ", capacity_,
                   " bytes is too small: ", used_, " in use, ", bytes, " more asked for");
    used_ += bytes;
    if (peak_ != nullptr) *peak_ = std::max(*peak_, used_);
    return tensor;
  }

  std::size_t used() const { return used_; }

 private:
  std::uintptr_t base_ = 0;
  std::size_t capacity_ = 0;
  std::size_t used_ = 0;
  std::size_t* peak_ = nullptr;
  Device device_;
};

}  // namespace engine
