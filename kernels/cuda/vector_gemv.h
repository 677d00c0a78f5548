// The product of one vector by a matrix, or by matrices chosen on the device. Plain data: kernels
// take it by value.
#pragma once

#include <cstdint>

#include "kernels/cuda/choose.h"
#include "kernels/cuda/context.h"

namespace engine::cuda {

struct VectorGemv {
  const void* x = nullptr;                // (K) of type T
  const void* weight = nullptr;           // (E · N, K)
  const std::uint16_t* scales = nullptr;  // (E · N) bf16; null: weights as they are
  const void* bias = nullptr;             // (N) of type T; null: nothing is added
  void* out = nullptr;                    // (S, N) of type T
  std::int64_t out_stride = 0;
  int outputs = 0, columns = 0;           // N, K
  int rows = 0, slots = 1;                // S · N, S
  int count = 1;                          // E
  const std::int32_t* experts = nullptr;  // (S); null: matrix s in slot s
  std::int64_t experts_stride = 0;
  // Where there is a norm: x becomes layernorm(x), of gelu(x) with `gelu`.
  const void* norm_weight = nullptr;  // (K), f32 or of type T
  const void* norm_bias = nullptr;    // (K)
  bool f32_norm = false, gelu = false;
  float eps = 0.0f;
};

// By the kernel that serves the problem best. With a norm: where `choose_vector_gemv` gives
// kStream, as it does for aligned rows that fit in shared memory.
void vector_gemv(CudaContext& context, const VectorGemv& product, const VectorGemvProblem& problem);
void sm90_vector_gemv(CudaContext& context, const VectorGemv& product, DType x, QuantFormat weight,
                      const Sm90GemvPlan& plan);

}  // namespace engine::cuda
