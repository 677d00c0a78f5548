// Measure on CUDA: events, streams of reads and copies, random fill.
#pragma once

#include <memory>

#include "kernels/cuda/context.h"
#include "kernels/cuda/memory.h"
#include "kernels/measure.h"

namespace engine::cuda {

// Both must outlive what is made.
std::unique_ptr<Measure> make_measure(CudaContext& context, DeviceMemory& memory);

// Kernels of measure.cu. read_stream folds what it read into `sink`, 4 bytes that nobody looks at;
// `data` starts on a multiple of 16 bytes.
void read_stream(CudaContext& context, const void* data, std::size_t bytes, std::uint32_t* sink);
void fill_normal(CudaContext& context, const Tensor& destination, float sigma, RandomSource source);
void fill_uniform(CudaContext& context, const Tensor& destination, RandomSource source);
void fill_constant(CudaContext& context, const Tensor& destination, float value);

}  // namespace engine::cuda
