// Weights made of matrices that are on the device already.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/backend.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/memory.h"

namespace engine::cuda {

// Backend::pack on CUDA.
PackedWeight pack(CudaContext& context, DeviceMemory& memory, const std::string& name,
                  Buffer source, DType dtype, std::int64_t rows, std::int64_t columns,
                  QuantFormat format);

// Quantises the rows of `source` (N, K), dense, by the rule of quant/int8.h: q (N, K) row-major and
// the bits of N bf16 scales. Sets *not_finite where a row holds NaN or infinity; that row's bytes
// then mean nothing.
void quantise_int8(CudaContext& context, const Tensor& source, std::int8_t* q,
                   std::uint16_t* scales, std::uint32_t* not_finite);

// Rounds `count` elements of one floating-point type to another.
void convert_elements(CudaContext& context, const Tensor& source, DType dtype, void* destination);

}  // namespace engine::cuda
