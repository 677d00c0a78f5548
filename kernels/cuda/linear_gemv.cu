// linear for few tokens: out[t, n] = Σ_k x[t, k] · W[n, k] (+ residual[t, n]), rounded once.
//
// gemv.cuh has the method. Limit: the bytes of W.
#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

template <typename T, int kTokens, bool kVector>
struct LinearRows {
  static constexpr bool kNorm = false;
  static constexpr int kRowsPerUnit = 1;
  const T* weight;  // (N, K)
  const T* x;       // (T, K)
  int columns, token_count, units;
  std::int64_t x_stride, out_stride, residual_stride;
  void* out;             // (T, N)
  const void* residual;  // (T, N) or null
  bool f32_out;

  __device__ int weight_row(int unit, int) const { return unit; }
  __device__ void before_wait(T*, int) const {}
  __device__ void prepare(T* x_shared, const T*, float*, int padded) const {
    gemv_copy_x<T, kTokens, kVector>(x_shared, x, x_stride, token_count, columns, padded);
  }
  template <typename Out>
  __device__ void write(int first, int rows, const float* sums) const {
    for (int i = static_cast<int>(threadIdx.x); i < rows * token_count; i += kGemvThreads) {
      const int t = i / rows, r = i % rows;
      float value = sums[r * kTokens + t];
      if (residual != nullptr) {
        value += to_f32(static_cast<const Out*>(residual)[t * residual_stride + first + r]);
      }
      static_cast<Out*>(out)[t * out_stride + first + r] = from_f32<Out>(value);
    }
  }
  __device__ void finish(int first, int rows, const float* sums) const {
    if (f32_out) {
      write<float>(first, rows, sums);
    } else {
      write<T>(first, rows, sums);
    }
  }
};

template <typename T, int kTokens, bool kVector>
void launch_gemv(CudaContext& context, const LinearCall& call, const LinearPlan& plan) {
  using Problem = LinearRows<T, kTokens, kVector>;
  // More tokens than a tile holds never get here: choose_linear picks a tile that covers them.
  const Problem problem{.weight = static_cast<const T*>(call.weight.data),
                        .x = call.x.as<T>(),
                        .columns = static_cast<int>(call.weight.columns),
                        .token_count = static_cast<int>(call.x.size(0)),
                        .units = static_cast<int>(call.weight.rows),
                        .x_stride = call.x.stride(0),
                        .out_stride = call.out.stride(0),
                        .residual_stride = call.residual ? call.residual.stride(0) : 0,
                        .out = call.out.data,
                        .residual = call.residual.data,
                        .f32_out = call.out.dtype == DType::kF32};
  const std::int64_t rows = (call.weight.rows + plan.blocks - 1) / plan.blocks;
  const std::size_t shared =
      gemv_shared_bytes(call.weight.columns, call.x.dtype, kTokens, rows, false);
  launch(context, gemv_kernel<T, kTokens, kVector, Problem>, to_unsigned(plan.blocks), kGemvThreads,
         gemv_launch_bytes(context.arch(), shared), problem);
}

}  // namespace

void linear_gemv(CudaContext& context, const LinearCall& call, const LinearPlan& plan) {
  ENGINE_REQUIRE(call.x.size(0) <= plan.token_tile, "linear: ", call.x.size(0),
                 " tokens in a tile of ", plan.token_tile);
  dispatch_float(call.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (!plan.vector_loads) {
      launch_gemv<T, 1, false>(context, call, plan);
    } else if (plan.token_tile == 1) {
      launch_gemv<T, 1, true>(context, call, plan);
    } else {
      launch_gemv<T, 2, true>(context, call, plan);
    }
  });
}

}  // namespace engine::cuda
