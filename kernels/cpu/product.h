// Rows of x by rows of a weight matrix: the body of linear and moe_linear.
//
// W is read where it lies, each element widened in registers: a few tokens (decoding) are bound by
// its bytes, and with more the widening hides behind the arithmetic. Many (prefill) pass by panels,
// stretches of W widened with the columns outermost, where the machine's kernels have them. x is
// widened into scratch, once for a few tokens and for panels, else block by block. Where the
// machine multiplies bf16 by bf16, operands that are bf16, or int8 (which bf16 holds exactly), are
// not widened further; a few rows of 16-bit x meet int8 as digits of a fixed-point number, whose
// sums of integers are exact. Work is cut into blocks of rows and tokens; the columns come in
// pieces of fixed length, whose sums are added up in fp32. So the order of every sum depends on K,
// on the machine's kernels and on which of these ways the count of tokens takes, and on nothing
// else. Quantised weights enter the sums as the integers they are stored as (exact in fp32); the
// scale of a row multiplies its sum.
#pragma once

#include <cstdint>

#include "kernels/cpu/context.h"

namespace engine::cpu {

// Elements between rows of f32; the padding keeps equal columns of different rows out of the same
// cache set.
constexpr std::int64_t padded_stride(std::int64_t columns) { return columns + 16; }

// How the work is cut. A piece of x, (tokens, columns), should stay in the second-level cache, and
// of w the rows of a register tile in the first.
struct Blocking {
  std::int64_t tokens, rows, columns;

  constexpr std::int64_t stride() const { return padded_stride(columns); }
  // The same in bf16.
  constexpr std::int64_t pair_stride() const { return columns + 32; }
  constexpr std::int64_t sum_floats() const { return tokens * rows; }
  constexpr std::int64_t x_floats() const { return tokens * stride(); }
};

// The blocking that serves `tokens` tokens.
const Blocking& blocking_for(const Context& context, std::int64_t tokens);

// Whether `tokens` tokens are multiplied by panels (Kernels::dot_block_panels), which take f32.
bool multiplies_panels(const Context& context, std::int64_t tokens);

// Blocks of a weight's rows, `row_blocks` in all, that a thread multiplies by `tokens` tokens at a
// time. Of few tokens, for which the rows are read once: enough to read on where it stopped, by its
// own prefetches, and so few that no thread waits for another.
std::int64_t adjacent_row_blocks(const Context& context, std::int64_t tokens,
                                 std::int64_t row_blocks);
// How many tokens a block should have, so that blocks are equal and made of whole register tiles.
std::int64_t block_tokens(const Blocking& blocking, std::int64_t tokens);

// Rows of elements that may lie in two levels: row i is at base + i ÷ inner · outer_bytes +
// i mod inner · inner_bytes. A null base: no rows.
struct RowSet {
  std::byte* base = nullptr;
  std::int64_t inner = 1;
  std::int64_t outer_bytes = 0;
  std::int64_t inner_bytes = 0;

  std::byte* at(std::int64_t row) const {
    return base + row / inner * outer_bytes + row % inner * inner_bytes;
  }
};

struct Product {
  const Context& context;
  const Weight& weight;
  std::int64_t first = 0;  // row of the weight that makes channel 0
  DType x_type, out_type;
  RowSet x, out;
  RowSet residual;     // added; may be out
  std::int64_t count;  // of tokens, all blocks together
  // Token m is row tokens[m] of the row sets, or row m where this is null.
  const std::int32_t* tokens = nullptr;
  // (count, K), rows ready_stride elements apart: x in the form that is multiplied; null: each
  // block makes its own part of it.
  const void* ready = nullptr;
  std::int64_t ready_stride = 0;
  // (count): x is ready as digits (kernels.h), planes ready_stride bytes apart; null: it is not.
  const double* units = nullptr;
};

// Makes x ready for all blocks of a few tokens, where it can: as it lies where no widening is
// needed, else in the scratch of thread 0. Called before the threads start; nothing else may take
// that scratch until the product is done.
void prepare(Product& product);

// One block of the output: `tokens` from `token` on by `rows` channels from `row` on, at most as
// many as blocking_for(count) has. Takes the scratch of `worker`.
void multiply_block(const Product& product, std::int64_t token, std::int64_t tokens,
                    std::int64_t row, std::int64_t rows, int worker);

}  // namespace engine::cpu
