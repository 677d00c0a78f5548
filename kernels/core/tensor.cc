#include "kernels/core/tensor.h"

#include "kernels/core/check.h"

namespace engine {

Tensor Tensor::contiguous(void* data, DType dtype, Device device, Shape shape) {
  Tensor tensor{data, dtype, device, shape, {}};
  std::int64_t stride = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    tensor.strides[static_cast<std::size_t>(axis)] = stride;
    stride = checked_mul(stride, shape[axis], "tensor");
  }
  return tensor;
}

bool Tensor::is_contiguous() const {
  std::int64_t expected = 1;
  for (int axis = rank() - 1; axis >= 0; --axis) {
    if (size(axis) != 1 && stride(axis) != expected) return false;
    expected *= size(axis);
  }
  return true;
}

Tensor Tensor::slice(int axis, std::int64_t begin, std::int64_t count) const {
  ENGINE_REQUIRE(
      axis >= 0 && axis < rank() && begin >= 0 && count >= 0 && begin + count <= size(axis),
      "slice [", begin, ", ", begin + count, ") of axis ", axis, " of ", shape);
  Tensor view = *this;
  // Integer arithmetic, so that a dry run may slice a tensor that has no memory yet.
  const auto offset = static_cast<std::uintptr_t>(begin * stride(axis)) * dtype_size(dtype);
  view.data = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(data) + offset);
  view.shape[axis] = count;
  return view;
}

Tensor Tensor::reshape(Shape new_shape) const {
  ENGINE_REQUIRE(is_contiguous() && new_shape.numel() == numel(), "reshape of ", shape, " to ",
                 new_shape);
  return contiguous(data, dtype, device, new_shape);
}

Tensor Tensor::split(int axis, std::int64_t inner) const {
  ENGINE_REQUIRE(
      rank() < kMaxRank && axis >= 0 && axis < rank() && inner > 0 && size(axis) % inner == 0,
      "split of axis ", axis, " of ", shape, " by ", inner);
  Tensor view{data, dtype, device, {}, {}};
  Shape parts = rank() == 1 ? Shape{0, 0} : rank() == 2 ? Shape{0, 0, 0} : Shape{0, 0, 0, 0};
  int to = 0;
  for (int from = 0; from < rank(); ++from) {
    if (from == axis) {
      parts[to] = size(from) / inner;
      view.strides[static_cast<std::size_t>(to++)] = stride(from) * inner;
      parts[to] = inner;
    } else {
      parts[to] = size(from);
    }
    view.strides[static_cast<std::size_t>(to++)] = stride(from);
  }
  view.shape = parts;
  return view;
}

}  // namespace engine
