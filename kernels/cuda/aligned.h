// Whether operands allow 16-byte loads. Pure functions, without CUDA.
#pragma once

#include "kernels/core/tensor.h"
#include "kernels/core/weight.h"

namespace engine::cuda {

// Whether `tensor` starts, and steps along all but its last axis, on multiples of 16 bytes.
bool is_vector_aligned(const Tensor& tensor);
// Whether the rows of a weight start on multiples of 16 bytes.
bool is_vector_aligned(const Weight& weight);

}  // namespace engine::cuda
