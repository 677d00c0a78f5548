// A product at one token whose x comes in through RMSNorm, computed again by every block while its
// first weights are on their way. attention_in.cu and feed_forward.cu supply the epilogues.
//
// gemv.cuh has the method. Every rounding of the default bodies in kernels/ops.cc is kept: that of
// the normalised x here, those of the sums before RoPE and before SiLU in the epilogues.
#pragma once

#include <type_traits>

#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {

// What both products share: x (1, K) comes in through RMSNorm.
template <typename T, bool kVector>
struct NormedRows {
  static constexpr bool kNorm = true;
  static constexpr int kRowsPerUnit = 2;
  const T* weight;  // (N, K)
  const T* x;       // (K)
  const T* norm;    // (K)
  int columns, units;
  float eps;

  __device__ void before_wait(T* norm_shared, int padded) const {
    gemv_copy_x<T, 1, kVector>(norm_shared, norm, 0, 1, columns, padded);
  }
  __device__ void prepare(T* x_shared, const T* norm_shared, float* partial, int padded) const {
    gemv_normalise_x<T, kVector>(x_shared, norm_shared, partial, x, eps, columns, padded);
  }
};

template <typename T, bool kVector>
NormedRows<T, kVector> normed_rows(const Weight& weight, const Tensor& x, const Tensor& norm,
                                   float eps) {
  NormedRows<T, kVector> rows;
  rows.weight = static_cast<const T*>(weight.data);
  rows.x = x.as<T>();
  rows.norm = norm.as<T>();
  rows.columns = static_cast<int>(weight.columns);
  rows.units = static_cast<int>(weight.rows / 2);
  rows.eps = eps;
  return rows;
}

template <typename T, bool kVector, typename Problem>
void launch_rows(CudaContext& context, const Problem& problem, DType dtype) {
  const int blocks = gemv_blocks(context.arch(), problem.units);
  const std::int64_t rows = (problem.units + blocks - 1) / blocks * 2;
  const std::size_t shared = gemv_shared_bytes(problem.columns, dtype, 1, rows, true);
  launch(context, gemv_kernel<T, 1, kVector, Problem>, to_unsigned(blocks), kGemvThreads,
         gemv_launch_bytes(context.arch(), shared), problem);
}

// Calls f(TypeTag, std::bool_constant<vector loads>).
template <typename F>
void dispatch_rows(const Tensor& x, const Tensor& norm, const Weight& weight, F&& f) {
  const bool aligned = is_vector_aligned(x) && is_vector_aligned(norm) && is_vector_aligned(weight);
  dispatch_float(x.dtype, [&](auto tag) {
    if (aligned) {
      f(tag, std::true_type{});
    } else {
      f(tag, std::false_type{});
    }
  });
}

}  // namespace engine::cuda
