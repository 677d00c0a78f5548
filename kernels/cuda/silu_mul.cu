// silu_mul: out = gate ÷ (1 + exp(−gate)) · up, in fp32, rounded once; scaled_silu_mul: the same of
// gate and up times scales of their columns.
//
// Layout: (T, F) strided. A thread has one 16-byte vector, or one element where rows are not
// aligned. Limit: bytes of gate and up read and out written. __expf is within 2 ulp + |gate| · 2⁻²²
// relative here, below half an ulp of the 16-bit types; f32 takes expf.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/widened.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__device__ float silu(float z) {
  const float e = sizeof(T) == 4 ? expf(-z) : __expf(-z);
  return z / (1.0f + e);
}

// Scales of gate and of up, one a column.
struct Scales {
  const std::uint16_t *gate, *up;
};

template <typename T, bool kVector, bool kScaled>
__global__ void __launch_bounds__(kThreads)
    silu_mul_kernel(T* out, std::int64_t out_stride, const T* gate, std::int64_t gate_stride,
                    const T* up, std::int64_t up_stride, std::int64_t width, Scales scales) {
  constexpr int kPer = kVector ? kPerVector<T> : 1;
  pdl_launch_dependents();
  pdl_wait();
  const std::int64_t t = blockIdx.y;
  const std::int64_t f = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPer;
  if (f >= width) return;
  if constexpr (kVector) {
    float a[kPer], b[kPer];
    unpack<T>(load_vector(gate + t * gate_stride + f), a);
    unpack<T>(load_vector(up + t * up_stride + f), b);
    if constexpr (kScaled) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        a[i] *= scale_value(scales.gate[f + i]);
        b[i] *= scale_value(scales.up[f + i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kPer; ++i) a[i] = silu<T>(a[i]) * b[i];
    store_vector(out + t * out_stride + f, pack<T>(a));
  } else {
    float a = to_f32(gate[t * gate_stride + f]), b = to_f32(up[t * up_stride + f]);
    if constexpr (kScaled) {
      a *= scale_value(scales.gate[f]);
      b *= scale_value(scales.up[f]);
    }
    out[t * out_stride + f] = from_f32<T>(silu<T>(a) * b);
  }
}

template <bool kScaled>
void run(CudaContext& context, const SiluMulCall& call, const Scales& scales) {
  const std::int64_t tokens = call.gate.size(0), width = call.gate.size(1);
  const bool vectors = is_vector_aligned(call.gate) && is_vector_aligned(call.up) &&
                       is_vector_aligned(call.out) &&
                       width * static_cast<std::int64_t>(dtype_size(call.gate.dtype)) % 16 == 0;
  dispatch_float(call.gate.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const std::int64_t each = kThreads * (vectors ? kPerVector<T> : 1);
    const dim3 grid(to_unsigned((width + each - 1) / each), to_unsigned(tokens));
    launch(context,
           vectors ? silu_mul_kernel<T, true, kScaled> : silu_mul_kernel<T, false, kScaled>, grid,
           kThreads, 0, call.out.as<T>(), call.out.stride(0), call.gate.as<T>(),
           call.gate.stride(0), call.up.as<T>(), call.up.stride(0), width, scales);
  });
}

}  // namespace

void silu_mul(CudaContext& context, const SiluMulCall& call) { run<false>(context, call, {}); }

void scaled_silu_mul(CudaContext& context, const SiluMulCall& call,
                     const std::uint16_t* gate_scales, const std::uint16_t* up_scales) {
  run<true>(context, call, {.gate = gate_scales, .up = up_scales});
}

}  // namespace engine::cuda
