// widen_weight and finish_widened (widened.h).
//
// Layout: matrices row-major. Widening: a thread turns 16 bytes of q into 32, wherever its row.
// Finishing: a block has a stretch of one row, a thread four outputs, or one where rows are not
// aligned. Limit of both: bytes read and written.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/device/widen.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/widened.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256;

// Four bytes as four of T.
template <typename T>
__device__ uint2 widen_four(std::uint32_t bytes) {
  return make_uint2(widen<T>(bytes), widen<T>(bytes >> 16));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    widen_kernel(const uint4* q, uint4* to, std::int64_t vectors) {  // of 16 weights
  pdl_launch_dependents();
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool there = at < vectors;
  // Weights are there before any kernel; the products that read `to` last may not be done.
  const uint4 raw = there ? __ldcs(q + at) : uint4{};
  pdl_wait();
  if (!there) return;
  const uint2 a = widen_four<T>(raw.x), b = widen_four<T>(raw.y);
  const uint2 c = widen_four<T>(raw.z), d = widen_four<T>(raw.w);
  to[2 * at] = make_uint4(a.x, a.y, b.x, b.y);
  to[2 * at + 1] = make_uint4(c.x, c.y, d.x, d.y);
}

// Four neighbours of Out, had at once, or one element.
template <typename Out, bool kVector>
struct Few {
  static constexpr int kCount = kVector ? 4 : 1;
  using Raw = std::conditional_t<kVector, std::conditional_t<sizeof(Out) == 4, uint4, uint2>, Out>;
  union {
    Raw raw;
    Out element[kCount];
  };
  __device__ Few() : raw{} {}
};

template <typename Out, bool kVector>
__global__ void __launch_bounds__(kThreads)
    finish_widened_kernel(Out* out, std::int64_t out_stride,                  // (T, N)
                          const float* sums,                                  // (T, N)
                          const std::uint16_t* scales,                        // (N)
                          const Out* residual, std::int64_t residual_stride,  // (T, N) or null
                          std::int64_t outputs) {
  using Group = Few<Out, kVector>;
  constexpr int kCount = Group::kCount;
  pdl_launch_dependents();
  pdl_wait();
  const std::int64_t t = blockIdx.y;
  const std::int64_t n = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kCount;
  if (n >= outputs) return;
  float sum[kCount];
  if constexpr (kVector) {
    const float4 four = __ldcs(reinterpret_cast<const float4*>(sums + t * outputs + n));
    sum[0] = four.x, sum[1] = four.y, sum[2] = four.z, sum[3] = four.w;
  } else {
    sum[0] = sums[t * outputs + n];
  }
  Group group;
  if (residual != nullptr) {
    group.raw = *reinterpret_cast<const typename Group::Raw*>(residual + t * residual_stride + n);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float scale = scale_value(scales[n + i]);
    group.element[i] = from_f32<Out>(fmaf(sum[i], scale, to_f32(group.element[i])));
  }
  *reinterpret_cast<typename Group::Raw*>(out + t * out_stride + n) = group.raw;
}

}  // namespace

Weight widen_weight(CudaContext& context, const Weight& weight, DType dtype, void* to) {
  ENGINE_REQUIRE(dtype != DType::kF32 && weight.format == QuantFormat::kInt8,
                 "no weight is widened so");
  const std::int64_t vectors = weight.rows * weight.columns / 16;
  const unsigned blocks = to_unsigned((vectors + kThreads - 1) / kThreads);
  const auto* q = static_cast<const uint4*>(weight.data);
  launch(context, dtype == DType::kF16 ? widen_kernel<__half> : widen_kernel<__nv_bfloat16>, blocks,
         kThreads, 0, q, static_cast<uint4*>(to), vectors);
  Weight widened = weight;
  widened.data = to;
  widened.scales = nullptr;
  widened.format = plain_format(dtype);
  return widened;
}

void finish_widened(CudaContext& context, const LinearCall& call, const Tensor& sums) {
  const std::int64_t tokens = sums.size(0), outputs = sums.size(1);
  dispatch_float(call.out.dtype, [&](auto tag) {
    using Out = typename decltype(tag)::type;
    const auto allows = [](const Tensor& tensor) {
      return reinterpret_cast<std::uintptr_t>(tensor.data) % (4 * sizeof(Out)) == 0 &&
             tensor.stride(0) % 4 == 0;
    };
    const bool vectors =
        outputs % 4 == 0 && allows(call.out) && (!call.residual || allows(call.residual));
    const std::int64_t each = kThreads * (vectors ? 4 : 1);
    const dim3 grid(to_unsigned((outputs + each - 1) / each), to_unsigned(tokens));
    launch(context, vectors ? finish_widened_kernel<Out, true> : finish_widened_kernel<Out, false>,
           grid, kThreads, 0, call.out.as<Out>(), call.out.stride(0), sums.as<const float>(),
           static_cast<const std::uint16_t*>(call.weight.scales),
           call.residual ? call.residual.as<const Out>() : nullptr,
           call.residual ? call.residual.stride(0) : 0, outputs);
  });
}

}  // namespace engine::cuda
