// Products whose rows of x may each have a matrix of their own: the linears of int8 weights and
// those of a mixture of experts.
//
//   out[t, s, :] = (x[t, s, :] · W[e(t, s)]ᵀ) × scale (+ residual[t, :])
//
// A linear has one slot s a token and one matrix; a mixture has S slots, and e(t, s) lies on the
// device. Row r of the product is (t, s) = (r / S, r % S). Weights are row-major in every format,
// so the same bytes serve every kernel. Plain data: kernels take it by value.
#pragma once

#include <cstdint>

#include "kernels/cuda/context.h"
#include "kernels/ops.h"

namespace engine::cuda {

// Rows [begin, begin + count) of the sorted order, all of one expert; none where count is 0.
struct RowGroup {
  std::int32_t expert, begin, count;
};

struct RowProduct {
  const void* x = nullptr;                // (T, S, K), strides below; slot stride 0: rows shared
  const void* weight = nullptr;           // (E · N, K)
  const std::uint16_t* scales = nullptr;  // (E · N) bf16; null: weights without scales
  const void* residual = nullptr;         // (T, N), S = 1; null: nothing is added
  void* out = nullptr;                    // (T, S, N)
  std::int64_t x_stride = 0, x_slot_stride = 0;
  std::int64_t out_stride = 0, out_slot_stride = 0, residual_stride = 0;
  std::int64_t outputs = 0, columns = 0;  // N, K
  std::int32_t rows = 0, slots = 1;       // T · S, S
  const std::int32_t* experts = nullptr;  // (T, S); null: one matrix
  std::int64_t experts_stride = 0;
  std::int32_t count = 1;               // E
  const std::int32_t* order = nullptr;  // (T · S) rows sorted by expert; null: in their own order
  const RowGroup* groups = nullptr;     // with `order`: what each tile of rows computes
  std::int32_t tiles = 0;               // tiles of rows, some of them perhaps empty
  std::int32_t row_tile = 0;            // rows of a tile
  bool f32_out = false;                 // out and residual are f32, else of x's type
  bool aligned = false;                 // x and weight allow 16-byte loads from row to row
};

// Sorts the rows by expert into `order` (T · S) and cuts them into product.tiles `groups`, those
// past the last empty.
void moe_sort(CudaContext& context, const RowProduct& product, std::int32_t* order,
              RowGroup* groups);

// The product of x (T, K) or (T, S or 1, K) by `weight` as a call to fill in.
RowProduct row_product_of(const Tensor& x, const Weight& weight, const Tensor& out);

// Few rows: streams each row's matrix. `token_tile` (1, 2, 4 or 8) rows share one pass; 1 where
// there are experts.
void row_gemv(CudaContext& context, const RowProduct& product, DType x, QuantFormat weight,
              int token_tile);
// A few rows, 16-bit x, weights of x's type or int8, `aligned`: tensor cores, product.row_tile rows
// a tile, up to kRowFewRows.
void row_few(CudaContext& context, const RowProduct& product, DType x, QuantFormat weight);
// Many rows, 16-bit x, weights of x's type or int8: tensor cores, kRowTile rows a tile.
void row_product_mma(CudaContext& context, const RowProduct& product, DType x, QuantFormat weight);
// Many rows, x as named, int8 weights, on Hopper: wgmma, `row_tile` (64, 128 or 256) rows a tile;
// `aligned`, and K a multiple of 16. With `silu` the outputs are gates, then ups, and out is (T, S,
// N / 2).
void sm90_row_product_bf16(CudaContext& context, const RowProduct& product, int row_tile,
                           bool silu);
void sm90_row_product_f16(CudaContext& context, const RowProduct& product, int row_tile, bool silu);
// Many rows, any types: fp32 on CUDA cores, kRowTile rows a tile.
void row_product_plain(CudaContext& context, const RowProduct& product, DType x,
                       QuantFormat weight);

}  // namespace engine::cuda
