// The product of row_product.h for many rows, the plain way: any types of x and weight, fp32
// multiply-adds, any stride and alignment.
//
// Layout: x rows gathered by the tile's list, W (N, K) row-major. A block of 256 threads computes
// kRowTile rows × 64 outputs, a thread 4 × 4 of them, over slices of 16 of K held in shared memory.
// Limit: fp32 multiply-adds.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/row_product.cuh"

namespace engine::cuda {
namespace {

constexpr int kOutputTile = 64, kSlice = 16, kThreads = 256, kEach = 4;
static_assert(kRowTile == 64, "16 × 16 threads have 4 × 4 outputs each");

template <typename T, typename W>
__global__ void __launch_bounds__(kThreads) row_product_plain_kernel(const RowProduct p) {
  __shared__ float x_tile[kSlice][kRowTile + 1], w_tile[kSlice][kOutputTile + 1];
  __shared__ std::int32_t rows[kRowTile];
  pdl_launch_dependents();
  pdl_wait();
  const std::int32_t expert = tile_rows(p, static_cast<std::int32_t>(blockIdx.x), rows);
  __syncthreads();          // the list of rows is complete
  if (rows[0] < 0) return;  // an empty tile, for the whole block

  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kOutputTile;
  const std::int64_t base = expert * p.outputs;
  // What this thread loads: column `column` of every 16th row from `at` on.
  const int at = static_cast<int>(threadIdx.x) / kSlice;
  const int column = static_cast<int>(threadIdx.x) % kSlice;
  const T* x[kEach];
  const W* weight[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const std::int32_t row = rows[at + 16 * i];
    const std::int64_t n = first + at + 16 * i;
    x[i] = row < 0 ? nullptr : x_row<T>(p, row);
    weight[i] = n < p.outputs ? static_cast<const W*>(p.weight) + (base + n) * p.columns : nullptr;
  }

  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  float sum[kEach][kEach] = {};
  for (std::int64_t k0 = 0; k0 < p.columns; k0 += kSlice) {
    const std::int64_t k = k0 + column;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool inside = k < p.columns;
      x_tile[column][at + 16 * i] = inside && x[i] != nullptr ? to_f32(x[i][k]) : 0.0f;
      w_tile[column][at + 16 * i] = inside && weight[i] != nullptr ? to_f32(weight[i][k]) : 0.0f;
    }
    __syncthreads();  // tiles are complete
#pragma unroll
    for (int s = 0; s < kSlice; ++s) {
      float xs[kEach], ws[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) xs[i] = x_tile[s][ty + 16 * i];
#pragma unroll
      for (int j = 0; j < kEach; ++j) ws[j] = w_tile[s][tx + 16 * j];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) sum[i][j] = fmaf(xs[i], ws[j], sum[i][j]);
      }
    }
    __syncthreads();  // tiles may be overwritten
  }

#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const std::int64_t n = first + tx + 16 * j;
    if (n >= p.outputs) continue;
    const float scale = weight_scale<W>(p, base + n);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const std::int32_t row = rows[ty + 16 * i];
      if (row >= 0) store_sum<T>(p, row, n, sum[i][j], scale);
    }
  }
}

}  // namespace

void row_product_plain(CudaContext& context, const RowProduct& product, DType x,
                       QuantFormat weight) {
  const dim3 grid(to_unsigned(product.tiles),
                  to_unsigned((product.outputs + kOutputTile - 1) / kOutputTile));
  dispatch_float(x, [&](auto x_tag) {
    dispatch_weight(weight, [&](auto weight_tag) {
      using T = typename decltype(x_tag)::type;
      using W = typename decltype(weight_tag)::type;
      launch(context, row_product_plain_kernel<T, W>, grid, kThreads, 0, product);
    });
  });
}

}  // namespace engine::cuda
