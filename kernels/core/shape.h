// The extents of a tensor: up to four, outermost first.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>

#include "kernels/core/check.h"

namespace engine {

inline constexpr int kMaxRank = 4;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) {
    ENGINE_REQUIRE(dims.size() <= kMaxRank, "a shape of rank ", dims.size(), ", at most ",
                   kMaxRank);
    for (const std::int64_t dim : dims) {
      ENGINE_REQUIRE(dim >= 0, "a negative extent ", dim);
      dims_[static_cast<std::size_t>(rank_++)] = dim;
    }
  }

  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return dims_[static_cast<std::size_t>(axis)]; }
  std::int64_t& operator[](int axis) { return dims_[static_cast<std::size_t>(axis)]; }

  // The product of the extents; 1 for rank 0.
  std::int64_t numel() const {
    std::int64_t count = 1;
    for (int axis = 0; axis < rank_; ++axis) count = checked_mul(count, (*this)[axis], "shape");
    return count;
  }

  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '(';
  for (int axis = 0; axis < shape.rank(); ++axis) out << (axis > 0 ? ", " : "") << shape[axis];
  return out << ')';
}

}  // namespace engine
