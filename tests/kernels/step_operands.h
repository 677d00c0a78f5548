// Operands of calls that are lowered and never run: tensors at addresses that nobody reads, each in
// a range of its own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/step/lower.h"

namespace engine::cuda {

inline constexpr CudaArch kH200{};
inline constexpr CudaArch kA100{.major = 8, .minor = 0, .sms = 108, .shared_bytes = 163 * 1024};

class Operands {
 public:
  // `offset` bytes past a multiple of 256.
  Tensor tensor(DType dtype, Shape shape, std::size_t offset = 0) {
    Tensor tensor = Tensor::contiguous(address(offset), dtype, kCuda, shape);
    at_ += tensor.bytes() + offset;
    return tensor;
  }
  Weight weight(QuantFormat format, std::int64_t rows, std::int64_t columns,
                std::size_t offset = 0) {
    Weight weight{.data = address(offset),
                  .scales = nullptr,
                  .format = format,
                  .rows = rows,
                  .columns = columns,
                  .device = kCuda};
    at_ += static_cast<std::size_t>(rows * columns * 4) + offset;
    weight.scales = address(0);
    at_ += static_cast<std::size_t>(rows * 2);
    return weight;
  }
  Workspace workspace(std::size_t bytes) {
    Workspace workspace(address(0), bytes, kCuda);
    at_ += bytes;
    return workspace;
  }

 private:
  static constexpr Device kCuda{DeviceKind::kCuda, 0};

  void* address(std::size_t offset) {
    at_ = (at_ + 255) / 256 * 256;
    return reinterpret_cast<void*>(at_ + offset);
  }
  std::uintptr_t at_ = 1 << 20;
};

}  // namespace engine::cuda
