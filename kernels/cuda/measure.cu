// What measurements need of the device: a stream of reads and synthetic data.
//
// read_stream: blocks of 512 threads, two an SM and all at once, walk the buffer together; a thread
// keeps eight 16-byte loads in flight. Limit: bytes read. fill_normal, fill_uniform: a thread makes
// four elements at a time from one Philox block (normal4 in core/philox.h). Limit: the arithmetic
// of the transform. None of these lets the next kernel start early, so that a measurement behind
// one begins clean.
#include "kernels/cuda/measure.h"

#include <algorithm>

#include "kernels/core/philox.h"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/stream.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"

namespace engine::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocksPerSm = 2;
constexpr int kLoads = 8;

__device__ std::uint32_t fold(uint4 raw) { return raw.x ^ raw.y ^ raw.z ^ raw.w; }

__global__ __launch_bounds__(kThreads, kBlocksPerSm) void read_stream_kernel(
    const uint4* data, std::size_t vectors, const unsigned char* tail, int tail_bytes,
    std::uint32_t* sink) {
  pdl_wait();
  std::uint32_t sum = 0;
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * kThreads;
  std::size_t at = static_cast<std::size_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; at + (kLoads - 1) * stride < vectors; at += kLoads * stride) {
    uint4 raw[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) raw[i] = load_streaming(data + at + i * stride);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) sum ^= fold(raw[i]);
  }
  uint4 last[kLoads];  // less than a whole batch is left
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    last[i] = at + i * stride < vectors ? load_streaming(data + at + i * stride) : uint4{};
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) sum ^= fold(last[i]);
  if (blockIdx.x == 0 && static_cast<int>(threadIdx.x) < tail_bytes) sum ^= tail[threadIdx.x];
  // One value in 2³² is stored; the compiler can't know that, so the loads stay.
  if (sum == 0x5bd1e995u) *sink = sum;
}

template <typename T>
__global__ void fill_normal_kernel(T* out, std::int64_t count, float sigma, RandomSource source) {
  pdl_wait();
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x * 4;
  std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
  for (; at < count; at += stride) {
    const Normal4 four = normal4(source.seed, source.stream, static_cast<std::uint64_t>(at) / 4);
    for (int i = 0; i < 4 && at + i < count; ++i) out[at + i] = from_f32<T>(sigma * four.value[i]);
  }
}

template <typename T>
__global__ void fill_uniform_kernel(T* out, std::int64_t count, RandomSource source) {
  pdl_wait();
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x * 4;
  std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
  for (; at < count; at += stride) {
    const Uniform4 four = uniform4(source.seed, source.stream, static_cast<std::uint64_t>(at) / 4);
    for (int i = 0; i < 4 && at + i < count; ++i) out[at + i] = from_f32<T>(four.value[i]);
  }
}

template <typename T>
__global__ void fill_constant_kernel(T* out, std::int64_t count, float value) {
  pdl_wait();
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       at < count; at += stride) {
    out[at] = from_f32<T>(value);
  }
}

unsigned fill_blocks(const CudaContext& context, std::int64_t items) {
  const std::int64_t wanted = (items + 255) / 256;
  return to_unsigned(std::clamp<std::int64_t>(wanted, 1, context.arch().sms * 8));
}

}  // namespace

void read_stream(CudaContext& context, const void* data, std::size_t bytes, std::uint32_t* sink) {
  const std::size_t vectors = bytes / sizeof(uint4);
  launch(context, read_stream_kernel, to_unsigned(context.arch().sms * kBlocksPerSm), kThreads, 0,
         static_cast<const uint4*>(data), vectors,
         static_cast<const unsigned char*>(data) + vectors * sizeof(uint4),
         static_cast<int>(bytes % sizeof(uint4)), sink);
}

void fill_normal(CudaContext& context, const Tensor& destination, float sigma,
                 RandomSource source) {
  dispatch_float(destination.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, fill_normal_kernel<T>, fill_blocks(context, (destination.numel() + 3) / 4), 256,
           0, destination.as<T>(), destination.numel(), sigma, source);
  });
}

void fill_uniform(CudaContext& context, const Tensor& destination, RandomSource source) {
  dispatch_float(destination.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, fill_uniform_kernel<T>, fill_blocks(context, (destination.numel() + 3) / 4),
           256, 0, destination.as<T>(), destination.numel(), source);
  });
}

void fill_constant(CudaContext& context, const Tensor& destination, float value) {
  dispatch_float(destination.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, fill_constant_kernel<T>, fill_blocks(context, destination.numel()), 256, 0,
           destination.as<T>(), destination.numel(), value);
  });
}

}  // namespace engine::cuda
