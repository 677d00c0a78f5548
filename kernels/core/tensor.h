// A tensor: a non-owning view of elements on one device.
//
// Plain data, cheap to copy, safe to keep in a recorded call. Whoever made the memory (a Buffer, a
// Workspace over a Buffer) keeps it alive. Strides count elements, outermost axis first.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/core/device.h"
#include "kernels/core/dtype.h"
#include "kernels/core/shape.h"

namespace engine {

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Device device;
  Shape shape;
  std::array<std::int64_t, kMaxRank> strides{};

  // A row-major tensor over `data`.
  static Tensor contiguous(void* data, DType dtype, Device device, Shape shape);

  explicit operator bool() const { return data != nullptr; }
  int rank() const { return shape.rank(); }
  std::int64_t size(int axis) const { return shape[axis]; }
  std::int64_t stride(int axis) const { return strides[static_cast<std::size_t>(axis)]; }
  std::int64_t numel() const { return shape.numel(); }
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * dtype_size(dtype); }
  // True where the elements are dense and row-major; extents of 1 may have any stride.
  bool is_contiguous() const;
  // True where the innermost axis is dense, as every kernel asks.
  bool has_dense_rows() const {
    return rank() == 0 || size(rank() - 1) <= 1 || stride(rank() - 1) == 1;
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }

  // The elements [begin, begin + count) of `axis`.
  Tensor slice(int axis, std::int64_t begin, std::int64_t count) const;
  // The same elements under another shape; the tensor must be contiguous.
  Tensor reshape(Shape shape) const;
  // Axis `axis` of extent a·b seen as two axes (a, b); needs no contiguity.
  Tensor split(int axis, std::int64_t inner) const;
};

}  // namespace engine
