#include "kernels/cuda/aligned.h"

#include <cstdint>

namespace engine::cuda {
namespace {

constexpr std::int64_t kVectorBytes = 16;

bool is_aligned(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % kVectorBytes == 0;
}

}  // namespace

bool is_vector_aligned(const Tensor& tensor) {
  if (!is_aligned(tensor.data)) return false;
  for (int axis = 0; axis + 1 < tensor.rank(); ++axis) {
    const std::int64_t step =
        tensor.stride(axis) * static_cast<std::int64_t>(dtype_size(tensor.dtype));
    if (tensor.size(axis) > 1 && step % kVectorBytes != 0) return false;
  }
  return true;
}

bool is_vector_aligned(const Weight& weight) {
  const std::size_t row =
      format_info(weight.format).row_bytes(static_cast<std::size_t>(weight.columns));
  return is_aligned(weight.data) && row % kVectorBytes == 0;
}

}  // namespace engine::cuda
