// linear, the plain way: any types of x and weight, any shape, stride and alignment. It is what
// runs where neither the GEMV nor cuBLASLt serves, and what both are compared with.
//
//   out[t, n] = Σ_k x[t, k] · W[n, k] (+ residual[t, n]), fp32 accumulation, rounded once
// Layout: x (T, K), W (N, K), out (T, N). A block of 256 threads computes 64 × 64 outputs, a thread
// 4 × 4 of them, over slices of 16 of K held in shared memory. Limit: fp32 multiply-adds.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

constexpr int kTile = 64, kSlice = 16, kThreads = 256, kEach = 4;

struct TiledArguments {
  std::int64_t tokens, rows, columns;
  std::int64_t x_stride, out_stride, residual_stride;
  bool f32_out;
};

// A (kTile, kSlice) piece of a row-major matrix into shared memory, transposed, zero outside.
template <typename T>
__device__ void load_tile(float (&tile)[kSlice][kTile + 1], const T* matrix, std::int64_t stride,
                          std::int64_t first_row, std::int64_t rows, std::int64_t first_column,
                          std::int64_t columns) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kSlice; i += kThreads) {
    const int r = i / kSlice, c = i % kSlice;
    const bool inside = first_row + r < rows && first_column + c < columns;
    tile[c][r] = inside ? to_f32(matrix[(first_row + r) * stride + first_column + c]) : 0.0f;
  }
}

template <typename T, typename W>
__global__ void __launch_bounds__(kThreads)
    linear_tiled_kernel(void* out,             // (T, N)
                        const T* x,            // (T, K)
                        const W* weight,       // (N, K)
                        const void* residual,  // (T, N) or null
                        TiledArguments a) {
  __shared__ float x_tile[kSlice][kTile + 1], w_tile[kSlice][kTile + 1];
  pdl_launch_dependents();
  pdl_wait();
  const std::int64_t first_token = static_cast<std::int64_t>(blockIdx.y) * kTile;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  float sum[kEach][kEach] = {};
  for (std::int64_t k0 = 0; k0 < a.columns; k0 += kSlice) {
    load_tile(x_tile, x, a.x_stride, first_token, a.tokens, k0, a.columns);
    load_tile(w_tile, weight, a.columns, first_row, a.rows, k0, a.columns);
    __syncthreads();  // tiles are complete
#pragma unroll
    for (int k = 0; k < kSlice; ++k) {
      float xs[kEach], ws[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) xs[i] = x_tile[k][ty + 16 * i];
#pragma unroll
      for (int j = 0; j < kEach; ++j) ws[j] = w_tile[k][tx + 16 * j];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) sum[i][j] = fmaf(xs[i], ws[j], sum[i][j]);
      }
    }
    __syncthreads();  // tiles may be overwritten
  }

  const auto finish = [&]<typename Out>(TypeTag<Out>) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const std::int64_t t = first_token + ty + 16 * i, n = first_row + tx + 16 * j;
        if (t >= a.tokens || n >= a.rows) continue;
        float value = sum[i][j];
        if (residual != nullptr) {
          value += to_f32(static_cast<const Out*>(residual)[t * a.residual_stride + n]);
        }
        static_cast<Out*>(out)[t * a.out_stride + n] = from_f32<Out>(value);
      }
    }
  };
  if (a.f32_out) {
    finish(TypeTag<float>{});
  } else {
    finish(TypeTag<T>{});
  }
}

}  // namespace

void linear_tiled(CudaContext& context, const LinearCall& call) {
  const TiledArguments arguments{.tokens = call.x.size(0),
                                 .rows = call.weight.rows,
                                 .columns = call.weight.columns,
                                 .x_stride = call.x.stride(0),
                                 .out_stride = call.out.stride(0),
                                 .residual_stride = call.residual ? call.residual.stride(0) : 0,
                                 .f32_out = call.out.dtype == DType::kF32};
  const DType stored = call.weight.format == QuantFormat::kF32   ? DType::kF32
                       : call.weight.format == QuantFormat::kF16 ? DType::kF16
                                                                 : DType::kBF16;
  const dim3 grid(to_unsigned((arguments.rows + kTile - 1) / kTile),
                  to_unsigned((arguments.tokens + kTile - 1) / kTile));
  dispatch_float(call.x.dtype, [&](auto x_tag) {
    dispatch_float(stored, [&](auto weight_tag) {
      using T = typename decltype(x_tag)::type;
      using W = typename decltype(weight_tag)::type;
      launch(context, linear_tiled_kernel<T, W>, grid, kThreads, 0, call.out.data, call.x.as<T>(),
             static_cast<const W*>(call.weight.data), call.residual.data, arguments);
    });
  });
}

}  // namespace engine::cuda
