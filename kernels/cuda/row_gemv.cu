// The product of row_product.h for few rows: each warp streams kOutputs rows of a matrix and
// multiplies them by up to 8 rows of x.
//
// Layout: W (N, K) row-major of each expert, x (K) a row. Block: 4 warps; blockIdx.x cuts the
// outputs, blockIdx.y the rows of x (with experts: one row, whose expert is read on the device). A
// lane takes every 32nd chunk of 16 bytes or more; the next chunk is asked for while this one is
// multiplied, the first one, where no expert has to be known, before pdl_wait. Accumulation in
// fp32, the scale once per sum. Limit: the bytes of the matrices.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/row_product.cuh"

namespace engine::cuda {
namespace {

constexpr int kWarps = 4, kOutputs = 4;

template <typename T, typename W, int kRows>
__global__ void __launch_bounds__(kWarps * 32) row_gemv_kernel(const RowProduct p) {
  static_assert(kOutputs * kRows <= 32, "each lane stores one sum at most");
  constexpr int kPerX = kPerVector<T>, kPerW = kPerVector<W>;
  constexpr int kChunk = kPerX > kPerW ? kPerX : kPerW;
  constexpr int kVectors = kChunk / kPerW;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kWarps + warp) * kOutputs;
  const auto first_row = static_cast<std::int32_t>(blockIdx.y) * kRows;
  const bool vectors = p.aligned && p.columns % kChunk == 0;

  std::int64_t base = 0;  // of the expert's rows in the joined weight
  const W* weight[kOutputs];
  uint4 raw[kOutputs][kVectors] = {};
  const auto fetch = [&](std::int64_t k) {
    if (!vectors || k >= p.columns) return;
#pragma unroll
    for (int r = 0; r < kOutputs; ++r) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) raw[r][v] = load_vector(weight[r] + k + v * kPerW);
    }
  };
  const auto begin = [&](std::int32_t expert) {
    base = expert * p.outputs;
#pragma unroll
    for (int r = 0; r < kOutputs; ++r) {  // rows past the last read the last
      const std::int64_t n = min(first + r, p.outputs - 1);
      weight[r] = static_cast<const W*>(p.weight) + (base + n) * p.columns;
    }
    fetch(static_cast<std::int64_t>(lane) * kChunk);
  };

  pdl_launch_dependents();
  if (p.experts == nullptr) begin(0);
  pdl_wait();
  if (p.experts != nullptr) begin(expert_of(p, first_row));
  const T* x[kRows];
#pragma unroll
  for (int t = 0; t < kRows; ++t) x[t] = x_row<T>(p, min(first_row + t, p.rows - 1));

  float sum[kOutputs][kRows] = {};
  if (vectors) {
    for (std::int64_t k = static_cast<std::int64_t>(lane) * kChunk; k < p.columns;
         k += 32 * kChunk) {
      float weights[kOutputs][kChunk], values[kChunk], part_w[kPerW], part_x[kPerX];
#pragma unroll
      for (int r = 0; r < kOutputs; ++r) {
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          unpack<W>(raw[r][v], part_w);
#pragma unroll
          for (int i = 0; i < kPerW; ++i) weights[r][v * kPerW + i] = part_w[i];
        }
      }
      fetch(k + 32 * kChunk);
#pragma unroll
      for (int t = 0; t < kRows; ++t) {
#pragma unroll
        for (int v = 0; v < kChunk / kPerX; ++v) {
          unpack<T>(load_vector(x[t] + k + v * kPerX), part_x);
#pragma unroll
          for (int i = 0; i < kPerX; ++i) values[v * kPerX + i] = part_x[i];
        }
#pragma unroll
        for (int r = 0; r < kOutputs; ++r) {
#pragma unroll
          for (int i = 0; i < kChunk; ++i) sum[r][t] = fmaf(weights[r][i], values[i], sum[r][t]);
        }
      }
    }
  } else {
    for (std::int64_t k = lane; k < p.columns; k += 32) {
      float weights[kOutputs];
#pragma unroll
      for (int r = 0; r < kOutputs; ++r) weights[r] = to_f32(weight[r][k]);
#pragma unroll
      for (int t = 0; t < kRows; ++t) {
        const float value = to_f32(x[t][k]);
#pragma unroll
        for (int r = 0; r < kOutputs; ++r) sum[r][t] = fmaf(weights[r], value, sum[r][t]);
      }
    }
  }

#pragma unroll
  for (int r = 0; r < kOutputs; ++r) {
#pragma unroll
    for (int t = 0; t < kRows; ++t) {
      const float total = warp_sum(sum[r][t]);
      const std::int64_t n = first + r;
      if (lane == r * kRows + t && n < p.outputs && first_row + t < p.rows) {
        store_sum<T>(p, first_row + t, n, total, weight_scale<W>(p, base + n));
      }
    }
  }
}

template <typename T, typename W, int kRows>
void launch_tile(CudaContext& context, const RowProduct& p) {
  constexpr std::int64_t kBlockOutputs = kWarps * kOutputs;
  const dim3 grid(to_unsigned((p.outputs + kBlockOutputs - 1) / kBlockOutputs),
                  to_unsigned((p.rows + kRows - 1) / kRows));
  launch(context, row_gemv_kernel<T, W, kRows>, grid, kWarps * 32, 0, p);
}

}  // namespace

void row_gemv(CudaContext& context, const RowProduct& product, DType x, QuantFormat weight,
              int token_tile) {
  ENGINE_REQUIRE(product.experts == nullptr || token_tile == 1, "row_gemv: ", token_tile,
                 " rows of different experts in one tile");
  dispatch_float(x, [&](auto x_tag) {
    dispatch_weight(weight, [&](auto weight_tag) {
      using T = typename decltype(x_tag)::type;
      using W = typename decltype(weight_tag)::type;
      if constexpr (std::is_same_v<W, std::int8_t>) {
        if (token_tile == 2) return launch_tile<T, W, 2>(context, product);
        if (token_tile == 4) return launch_tile<T, W, 4>(context, product);
        if (token_tile == 8) return launch_tile<T, W, 8>(context, product);
      }
      ENGINE_REQUIRE(token_tile == 1, "row_gemv: no tile of ", token_tile, " rows");
      launch_tile<T, W, 1>(context, product);
    });
  });
}

}  // namespace engine::cuda
