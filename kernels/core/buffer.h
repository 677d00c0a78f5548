// Owned memory of one device: move-only, made by Backend::allocate, given back on destruction.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace engine {

class Buffer {
 public:
  using Deleter = std::function<void(void*)>;

  Buffer() = default;
  Buffer(void* data, std::size_t bytes, Device device, Deleter deleter)
      : data_(data, std::move(deleter)), bytes_(bytes), device_(device) {}

  void* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  // A row-major tensor at byte `offset` of this memory.
  Tensor tensor(DType dtype, Shape shape, std::size_t offset = 0) const {
    const Tensor view =
        Tensor::contiguous(static_cast<std::byte*>(data()) + offset, dtype, device_, shape);
    ENGINE_REQUIRE(offset <= bytes_ && view.bytes() <= bytes_ - offset, "a tensor ", shape, " of ",
                   dtype, " does not fit a buffer of ", bytes_, " bytes");
    return view;
  }

 private:
  std::unique_ptr<void, Deleter> data_{nullptr, [](void*) {}};
  std::size_t bytes_ = 0;
  Device device_;
};

}  // namespace engine
