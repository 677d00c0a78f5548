// out = x · Wᵀ (+ residual).
//
// A few tokens (decoding) are bound by the bytes of W: blocks of rows are dotted with x straight
// from memory, each w element read once and widened in registers. Many tokens (prefill) are bound
// by arithmetic: a block of w and a block of x are widened into this thread's scratch, where they
// stay in its caches while every register tile of one meets every tile of the other. In both, the
// columns come in pieces of fixed length whose sums are added up in fp32, so the order of every sum
// depends on K and on the path alone.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {
namespace {

constexpr std::int64_t kManyTokens = 8;  // from here on, blocks are widened first

// Few tokens: rows of a work item, columns of a piece. 7 tokens of x take 112 KiB.
constexpr std::int64_t kFewRows = 48;
constexpr std::int64_t kFewColumns = 4096;

// Many tokens. The padding of a row keeps equal columns of different rows out of the same cache
// set. Scratch: x 264 KiB, w 149 KiB, sums 36 KiB.
constexpr std::int64_t kBlockTokens = 128;
constexpr std::int64_t kBlockRows = 72;
constexpr std::int64_t kBlockColumns = 512;
constexpr std::int64_t kBlockStride = kBlockColumns + 16;

static_assert((kManyTokens - 1) * (kFewColumns + kFewRows) * sizeof(float) <=
              Context::kScratchBytes);
static_assert(((kBlockTokens + kBlockRows) * kBlockStride + kBlockTokens * kBlockRows) *
                  sizeof(float) <=
              Context::kScratchBytes);

struct Problem {
  const Context& context;
  const LinearCall& call;
  DType weight_type;
  std::int64_t tokens, rows, columns;

  const std::byte* weight_at(std::int64_t row, std::int64_t column) const {
    return static_cast<const std::byte*>(call.weight.data) +
           (row * columns + column) * static_cast<std::int64_t>(dtype_size(weight_type));
  }
  const std::byte* x_at(std::int64_t token, std::int64_t column) const {
    return row_of(call.x, token) + column * static_cast<std::int64_t>(dtype_size(call.x.dtype));
  }
  // Columns [column, column + count) of `count_tokens` tokens as floats, rows `stride` apart.
  void widen_x(std::int64_t token, std::int64_t count_tokens, std::int64_t column,
               std::int64_t count, float* to, std::int64_t stride) const {
    const auto widen = context.kernels->to_float[type_index(call.x.dtype)];
    for (std::int64_t m = 0; m < count_tokens; ++m) {
      widen(x_at(token + m, column), to + m * stride, count);
    }
  }
  // Adds the residual to sums (tokens, rows), rounds and stores them.
  void finish(const float* sums, std::int64_t stride, std::int64_t token, std::int64_t count_tokens,
              std::int64_t row, std::int64_t count_rows) const {
    const auto store = context.kernels->finish[type_index(call.out.dtype)];
    const auto offset = row * static_cast<std::int64_t>(dtype_size(call.out.dtype));
    for (std::int64_t m = 0; m < count_tokens; ++m) {
      const std::byte* residual =
          call.residual ? row_of(call.residual, token + m) + offset : nullptr;
      store(sums + m * stride, residual, row_of(call.out, token + m) + offset, count_rows);
    }
  }
};

void few_tokens(const Problem& p) {
  const auto dot = p.context.kernels->dot_block[type_index(p.weight_type)];
  const bool direct = p.call.x.dtype == DType::kF32;
  parallel_for(p.context, ceil_div(p.rows, kFewRows), [&](std::int64_t item, int worker) {
    float* sums = p.context.thread_scratch(worker);  // (tokens, kFewRows)
    float* widened = sums + (kManyTokens - 1) * kFewRows;
    const std::int64_t row = item * kFewRows, rows = std::min(kFewRows, p.rows - row);
    if (p.columns == 0) std::fill_n(sums, p.tokens * kFewRows, 0.0f);
    for (std::int64_t k = 0; k < p.columns; k += kFewColumns) {
      const std::int64_t columns = std::min(kFewColumns, p.columns - k);
      if (!direct) p.widen_x(0, p.tokens, k, columns, widened, kFewColumns);
      dot({.w = p.weight_at(row, k),
           .w_stride = p.columns,
           .rows = rows,
           .x = direct ? static_cast<const void*>(p.x_at(0, k)) : widened,
           .x_stride = direct ? p.call.x.stride(0) : kFewColumns,
           .tokens = p.tokens,
           .columns = columns,
           .out = sums,
           .out_stride = kFewRows,
           .accumulate = k > 0});
    }
    p.finish(sums, kFewRows, 0, p.tokens, row, rows);
  });
}

// One block of the output: `tokens` ≤ kBlockTokens by `rows` ≤ kBlockRows.
void block(const Problem& p, std::int64_t token, std::int64_t tokens, std::int64_t row,
           std::int64_t rows, float* scratch) {
  float* sums = scratch;                        // (kBlockTokens, kBlockRows)
  float* x = sums + kBlockTokens * kBlockRows;  // (kBlockTokens, kBlockStride)
  float* w = x + kBlockTokens * kBlockStride;   // (kBlockRows, kBlockStride)
  const auto widen = p.context.kernels->to_float[type_index(p.weight_type)];
  if (p.columns == 0) std::fill_n(sums, kBlockTokens * kBlockRows, 0.0f);
  for (std::int64_t k = 0; k < p.columns; k += kBlockColumns) {
    const std::int64_t columns = std::min(kBlockColumns, p.columns - k);
    p.widen_x(token, tokens, k, columns, x, kBlockStride);
    for (std::int64_t n = 0; n < rows; ++n) {
      widen(p.weight_at(row + n, k), w + n * kBlockStride, columns);
    }
    p.context.kernels->dot_block[type_index(DType::kF32)]({.w = w,
                                                           .w_stride = kBlockStride,
                                                           .rows = rows,
                                                           .x = x,
                                                           .x_stride = kBlockStride,
                                                           .tokens = tokens,
                                                           .columns = columns,
                                                           .out = sums,
                                                           .out_stride = kBlockRows,
                                                           .accumulate = k > 0});
  }
  p.finish(sums, kBlockRows, token, tokens, row, rows);
}

void many_tokens(const Problem& p) {
  // Equal blocks of tokens, whole register tiles each.
  const std::int64_t token_blocks = ceil_div(p.tokens, kBlockTokens);
  const std::int64_t block_tokens = ceil_div(ceil_div(p.tokens, token_blocks), 4) * 4;
  const std::int64_t row_blocks = ceil_div(p.rows, kBlockRows);
  parallel_for(p.context, token_blocks * row_blocks, [&](std::int64_t item, int worker) {
    const std::int64_t token = item / row_blocks * block_tokens;
    const std::int64_t row = item % row_blocks * kBlockRows;
    const std::int64_t tokens = std::min(block_tokens, p.tokens - token);
    if (tokens <= 0) return;
    block(p, token, tokens, row, std::min(kBlockRows, p.rows - row),
          p.context.thread_scratch(worker));
  });
}

}  // namespace

void linear(const Context& context, const LinearCall& call) {
  const Problem problem = {.context = context,
                           .call = call,
                           .weight_type = storage_dtype(call.weight.format),
                           .tokens = call.x.size(0),
                           .rows = call.weight.rows,
                           .columns = call.weight.columns};
  if (problem.tokens < kManyTokens) {
    few_tokens(problem);
  } else {
    many_tokens(problem);
  }
}

}  // namespace engine::cpu
