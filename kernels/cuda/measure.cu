// What measurements need of the device: a stream of reads and synthetic data.
//
// read_stream: a block of 256 threads reads a piece of the buffer, 32 KB, or 4 KB of what few
// blocks would otherwise share out badly; blocks begin in the order of their pieces, so that what
// is read at a time lies together. (Blocks that stay and walk the buffer in step read 4 % less on
// an H100.) Limit: bytes read. fill_normal, fill_uniform: a thread makes four elements at a time
// from one Philox block (normal4 in core/philox.h). Limit: the arithmetic of the transform. None of
// these lets the next kernel start early, so that a measurement behind one begins clean.
#include "kernels/cuda/measure.h"

#include <algorithm>

#include "kernels/core/philox.h"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/stream.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 2, kSteps = 4;  // of a thread at a time; of a large piece
constexpr std::size_t kSmallBuffer = std::size_t{64} << 20;

__device__ std::uint32_t fold(uint4 raw) { return raw.x ^ raw.y ^ raw.z ^ raw.w; }

// A piece is kStepCount · kLoadCount · kThreads vectors; the last may have fewer.
template <int kStepCount, int kLoadCount>
__global__ __launch_bounds__(kThreads) void read_stream_kernel(const uint4* data,
                                                               std::size_t vectors,
                                                               const unsigned char* tail,
                                                               int tail_bytes,
                                                               std::uint32_t* sink) {
  pdl_wait();
  std::uint32_t sum = 0;
  std::size_t at =
      static_cast<std::size_t>(blockIdx.x) * (kStepCount * kLoadCount * kThreads) + threadIdx.x;
#pragma unroll
  for (int step = 0; step < kStepCount; ++step) {
    uint4 raw[kLoadCount];
#pragma unroll
    for (int i = 0; i < kLoadCount; ++i, at += kThreads) {
      raw[i] = at < vectors ? load_streaming(data + at) : uint4{};
    }
#pragma unroll
    for (int i = 0; i < kLoadCount; ++i) sum ^= fold(raw[i]);
  }
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

}  // namespace

void read_stream(CudaContext& context, const void* data, std::size_t bytes, std::uint32_t* sink) {
  const std::size_t vectors = bytes / sizeof(uint4);
  const bool small = bytes < kSmallBuffer;
  const std::size_t piece = static_cast<std::size_t>(kThreads) * (small ? 1 : kSteps * kLoads);
  const std::size_t blocks = std::max<std::size_t>((vectors + piece - 1) / piece, 1);
  launch(context, small ? read_stream_kernel<1, 1> : read_stream_kernel<kSteps, kLoads>,
         to_unsigned(static_cast<std::int64_t>(blocks)), kThreads, 0,
         static_cast<const uint4*>(data), vectors,
         static_cast<const unsigned char*>(data) + vectors * sizeof(uint4),
         static_cast<int>(bytes % sizeof(uint4)), sink);
}

void fill_normal(CudaContext& context, const Tensor& destination, float sigma,
                 RandomSource source) {
  dispatch_float(destination.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, fill_normal_kernel<T>, blocks_of_row(context, 1, (destination.numel() + 3) / 4),
           256, 0, destination.as<T>(), destination.numel(), sigma, source);
  });
}

void fill_uniform(CudaContext& context, const Tensor& destination, RandomSource source) {
  dispatch_float(destination.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, fill_uniform_kernel<T>,
           blocks_of_row(context, 1, (destination.numel() + 3) / 4), 256, 0, destination.as<T>(),
           destination.numel(), source);
  });
}

void fill_constant(CudaContext& context, const Tensor& destination, float value) {
  dispatch_float(destination.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, fill_constant_kernel<T>, blocks_of_row(context, 1, destination.numel()), 256, 0,
           destination.as<T>(), destination.numel(), value);
  });
}

}  // namespace engine::cuda
