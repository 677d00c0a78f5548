// What stands before and behind cuBLASLt's products where weights are int8 and rows of x many.
//
//   out[t, n] = (Σ_k x[t, k] · q[n, k]) × scale[n] (+ residual[t, n])
//
// q becomes x's type, which holds every int8 exactly, and the sums come back in fp32, so that a
// linear is what row_product.h computes: accumulated in fp32, scaled, and rounded once.
#pragma once

#include "kernels/cuda/context.h"
#include "kernels/ops.h"

namespace engine::cuda {

// Rows [first, first + count) of a weight of rows that are contiguous.
Weight rows_of(const Weight& weight, std::int64_t first, std::int64_t count);

// The q of `weight` (N, K), int8 with rows on multiples of 16 bytes, as N · K elements of `dtype`
// (f16 or bf16) at `to`; the same matrix, whose scales are all 1.
Weight widen_weight(CudaContext& context, const Weight& weight, DType dtype, void* to);

// call.out = sums × the scales of call.weight (+ call.residual), rounded once. `sums` is (T, N)
// f32, contiguous; call.x is not read.
void finish_widened(CudaContext& context, const LinearCall& call, const Tensor& sums);

// silu_mul of gate × gate_scales and up × up_scales: (F) each, bits of bf16.
void scaled_silu_mul(CudaContext& context, const SiluMulCall& call,
                     const std::uint16_t* gate_scales, const std::uint16_t* up_scales);

}  // namespace engine::cuda
