// Device tensors that notice what a kernel must not do.
//
// Around the elements, and in the gaps that strides leave between them, stands poison: NaN to a
// kernel that reads it, and compared byte by byte afterwards. Elements start as poison too, so that
// one never written is NaN. Works through Backend alone.
#pragma once

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "tests/support/inputs.h"

namespace engine::test {

// How elements lie in memory: `pad` elements of gap after each row of the innermost axis, after
// each step of the next axis out, and so on; `offset` elements before the first.
struct Layout {
  std::array<std::int64_t, 3> pad{};
  std::int64_t offset = 0;
};
inline constexpr Layout kDense{};
// Rows start at no multiple of a vector.
inline constexpr Layout kOddStrides{{3, 5, 1}, 1};
// Rows start at multiples of 16 bytes in every dtype where their length is one.
inline constexpr Layout kWideStrides{{16, 32, 8}, 8};

class Guarded {
 public:
  Guarded(Backend& backend, DType dtype, Shape shape, Layout layout = kDense) : backend_(&backend) {
    std::int64_t stride = 1;
    std::size_t padded = 0;
    tensor_ = Tensor::contiguous(nullptr, dtype, backend.device(), shape);
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      tensor_.strides[static_cast<std::size_t>(axis)] = stride;
      stride = stride * shape[axis] + (axis > 0 ? layout.pad.at(padded++) : 0);
    }
    const auto offset = static_cast<std::size_t>(layout.offset) * dtype_size(dtype);
    bytes_.resize(2 * kGuard + offset + static_cast<std::size_t>(stride) * dtype_size(dtype));
    for (std::size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = poison_byte(i);
    buffer_ = backend.allocate(bytes_.size());
    tensor_.data = static_cast<std::byte*>(buffer_.data()) + kGuard + offset;
    first_ = kGuard + offset;
    upload();
  }
  // With elements already set.
  Guarded(Backend& backend, DType dtype, Shape shape, const Values& values, Layout layout = kDense)
      : Guarded(backend, dtype, shape, layout) {
    set(values);
  }

  const Tensor& tensor() const { return tensor_; }
  operator const Tensor&() const { return tensor_; }  // NOLINT: stands for its tensor in a call

  // Sets every element, in row-major order.
  void set(const Values& values) {
    REQUIRE(static_cast<std::int64_t>(values.size()) == tensor_.numel());
    const auto width = static_cast<std::size_t>(row_width());
    for_each_row([&](std::size_t row, std::size_t at) {
      encode(tensor_.dtype, {values.data() + row * width, width}, &bytes_[at]);
    });
    upload();
  }

  // The elements as the device has them, in row-major order. Checks that nothing around or between
  // them changed since they were last set or read.
  Values get(const std::string& what) {
    std::vector<std::byte> found(bytes_.size());
    backend_->read(found.data(), whole());
    const std::size_t size = dtype_size(tensor_.dtype);
    const std::size_t width = static_cast<std::size_t>(row_width());
    Values values;
    values.reserve(static_cast<std::size_t>(tensor_.numel()));
    for_each_row([&](std::size_t, std::size_t at) {
      for (std::size_t i = 0; i < width; ++i) {
        values.push_back(decode(tensor_.dtype, &found[at + i * size]));
      }
      std::memcpy(&bytes_[at], &found[at], width * size);
    });
    std::size_t first_bad = 0;
    while (first_bad < found.size() && found[first_bad] == bytes_[first_bad]) ++first_bad;
    CHECK_MESSAGE(first_bad == found.size(), what, ": wrote outside its elements, at byte ",
                  static_cast<std::int64_t>(first_bad) - static_cast<std::int64_t>(first_),
                  " from the first of them");
    bytes_ = std::move(found);
    return values;
  }

 private:
  static constexpr std::size_t kGuard = 512;  // keeps dense tensors aligned as Workspace does

  std::int64_t row_width() const {
    return tensor_.rank() == 0 ? 1 : tensor_.size(tensor_.rank() - 1);
  }
  Tensor whole() const {
    return buffer_.tensor(DType::kU8, {static_cast<std::int64_t>(bytes_.size())});
  }
  void upload() { backend_->write(whole(), bytes_.data()); }

  // body(row number, byte offset of its first element).
  template <typename Body>
  void for_each_row(Body&& body) const {
    const int rows_rank = tensor_.rank() - 1;
    std::int64_t rows = 1;
    for (int axis = 0; axis < rows_rank; ++axis) rows *= tensor_.size(axis);
    for (std::int64_t row = 0; row < rows; ++row) {
      std::int64_t rest = row, element = 0;
      for (int axis = rows_rank - 1; axis >= 0; --axis) {
        element += rest % tensor_.size(axis) * tensor_.stride(axis);
        rest /= tensor_.size(axis);
      }
      body(static_cast<std::size_t>(row),
           first_ + static_cast<std::size_t>(element) * dtype_size(tensor_.dtype));
    }
  }

  Backend* backend_;
  Buffer buffer_;
  Tensor tensor_;
  std::vector<std::byte> bytes_;
  std::size_t first_ = 0;
};

// Scratch memory of exactly what `step` needs by a dry run, between guards.
class GuardedWorkspace {
 public:
  GuardedWorkspace(Backend& backend, const std::function<void(Ops&, Workspace)>& step)
      : bytes_(backend.workspace_bytes(step)),
        memory_(backend, DType::kU8, {static_cast<std::int64_t>(bytes_)}) {}

  Workspace workspace() const { return {memory_.tensor().data, bytes_, memory_.tensor().device}; }
  void check(const std::string& what) { memory_.get(what); }

 private:
  std::size_t bytes_;
  Guarded memory_;
};

// linear in scratch of its own, between guards.
inline void run_linear(Backend& backend, const LinearCall& call) {
  GuardedWorkspace scratch(backend, [&](Ops& ops, Workspace ws) { ops.linear(call, ws); });
  backend.ops().linear(call, scratch.workspace());
  scratch.check("scratch of linear");
}

}  // namespace engine::test
