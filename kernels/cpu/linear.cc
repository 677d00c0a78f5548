// out = x · Wᵀ (+ residual).
//
// W is read where it lies, each element widened in registers: a few tokens (decoding) are bound by
// its bytes, and with many (prefill) the widening hides behind the arithmetic. x is widened into
// scratch: whole and once for a few tokens, else block by block. Work is cut into blocks of rows
// and tokens; the columns come in pieces of fixed length, whose sums are added up in fp32. So the
// order of every sum depends on K and on whether tokens are few or many, and on nothing else.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {
namespace {

// How the work is cut. A piece of x, (tokens, columns), should stay in the second-level cache, and
// of w the rows of a register tile in the first.
struct Blocking {
  std::int64_t tokens, rows, columns;

  // Between rows of x; the padding keeps equal columns of different rows out of the same cache set.
  constexpr std::int64_t stride() const { return columns + 16; }
  constexpr std::int64_t sum_floats() const { return tokens * rows; }
  constexpr std::int64_t x_floats() const { return tokens * stride(); }
};

constexpr std::int64_t kTokenTile = 12;  // a multiple of every register tile

constexpr std::int64_t kFewTokens = 7;
constexpr Blocking kFew = {.tokens = kFewTokens, .rows = 48, .columns = 4096};
constexpr Blocking kMany = {.tokens = 132, .rows = 72, .columns = 1024};
static_assert(kMany.tokens % kTokenTile == 0);

constexpr std::size_t bytes_of(const Blocking& blocking) {
  return static_cast<std::size_t>(blocking.sum_floats() + blocking.x_floats()) * sizeof(float);
}
static_assert(bytes_of(kFew) <= Context::kScratchBytes &&
              bytes_of(kMany) <= Context::kScratchBytes);

struct Problem {
  const Context& context;
  const LinearCall& call;
  DType weight_type;
  bool pairs;  // bf16 by bf16, without widening either
  std::int64_t tokens, rows, columns;
  const void* x = nullptr;    // (T, K) ready to be multiplied; null: each block makes its own
  std::int64_t x_stride = 0;  // elements

  std::size_t x_bytes() const { return pairs ? sizeof(bf16_t) : sizeof(float); }
  const std::byte* weight_at(std::int64_t row, std::int64_t column) const {
    return static_cast<const std::byte*>(call.weight.data) +
           (row * columns + column) * static_cast<std::int64_t>(dtype_size(weight_type));
  }
  const std::byte* x_at(std::int64_t token, std::int64_t column) const {
    return row_of(call.x, token) + column * static_cast<std::int64_t>(dtype_size(call.x.dtype));
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

// Makes columns [column, column + columns) of `tokens` rows of x ready in `to`, rows `stride`
// floats apart.
void load_x(const Problem& p, std::int64_t token, std::int64_t tokens, std::int64_t column,
            std::int64_t columns, float* to, std::int64_t stride) {
  const auto widen = p.context.kernels->to_float[type_index(p.call.x.dtype)];
  for (std::int64_t m = 0; m < tokens; ++m) {
    const std::byte* from = p.x_at(token + m, column);
    if (p.pairs) {
      std::memcpy(to + m * stride, from, static_cast<std::size_t>(columns) * sizeof(bf16_t));
    } else {
      widen(from, to + m * stride, columns);
    }
  }
}

// A few tokens: x as it lies where no widening is needed, else widened here for all blocks, where
// the scratch of thread 0, past the sums that it needs itself, has room.
void prepare_few(Problem& p, const Blocking& blocking) {
  if (p.pairs || p.call.x.dtype == DType::kF32) {
    p.x = p.call.x.data;
    p.x_stride = p.call.x.stride(0);
    return;
  }
  constexpr auto kFloats = static_cast<std::int64_t>(Context::kScratchBytes / sizeof(float));
  if (p.tokens * p.columns > kFloats - blocking.sum_floats()) return;
  float* to = p.context.thread_scratch(0) + blocking.sum_floats();
  load_x(p, 0, p.tokens, 0, p.columns, to, p.columns);
  p.x = to;
  p.x_stride = p.columns;
}

// One block of the output.
void run_block(const Problem& p, const Blocking& blocking, std::int64_t token, std::int64_t tokens,
               std::int64_t row, std::int64_t rows, float* scratch) {
  const Kernels& kernels = *p.context.kernels;
  const auto dot = p.pairs ? kernels.dot_block_bf16 : kernels.dot_block[type_index(p.weight_type)];
  float* sums = scratch;                         // (tokens, rows)
  float* own = scratch + blocking.sum_floats();  // (tokens, columns), rows stride() apart
  const auto own_stride =
      blocking.stride() * static_cast<std::int64_t>(sizeof(float) / p.x_bytes());
  if (p.columns == 0) std::fill_n(sums, blocking.sum_floats(), 0.0f);
  for (std::int64_t k = 0; k < p.columns; k += blocking.columns) {
    const std::int64_t columns = std::min(blocking.columns, p.columns - k);
    if (p.x == nullptr) load_x(p, token, tokens, k, columns, own, blocking.stride());
    const auto offset = static_cast<std::size_t>(token * p.x_stride + k) * p.x_bytes();
    dot({.w = p.weight_at(row, k),
         .w_stride = p.columns,
         .rows = rows,
         .x = p.x == nullptr ? static_cast<const void*>(own)
                             : static_cast<const std::byte*>(p.x) + offset,
         .x_stride = p.x == nullptr ? own_stride : p.x_stride,
         .tokens = tokens,
         .columns = columns,
         .out = sums,
         .out_stride = blocking.rows,
         .accumulate = k > 0});
  }
  p.finish(sums, blocking.rows, token, tokens, row, rows);
}

}  // namespace

void linear(const Context& context, const LinearCall& call) {
  const DType weight_type = storage_dtype(call.weight.format);
  // Below this, reading W is what takes the time.
  constexpr std::int64_t kPairTokens = 5;
  const bool pairs = weight_type == DType::kBF16 && call.x.dtype == DType::kBF16 &&
                     call.x.size(0) >= kPairTokens && context.kernels->dot_block_bf16 != nullptr;
  Problem problem = {.context = context,
                     .call = call,
                     .weight_type = weight_type,
                     .pairs = pairs,
                     .tokens = call.x.size(0),
                     .rows = call.weight.rows,
                     .columns = call.weight.columns};
  const bool few = problem.tokens <= kFewTokens;
  const Blocking& blocking = few ? kFew : kMany;
  if (few) prepare_few(problem, blocking);
  // Equal blocks of tokens, each of whole register tiles.
  const std::int64_t token_blocks = ceil_div(problem.tokens, blocking.tokens);
  if (token_blocks == 0) return;
  const std::int64_t block_tokens =
      ceil_div(ceil_div(problem.tokens, token_blocks), kTokenTile) * kTokenTile;
  const std::int64_t row_blocks = ceil_div(problem.rows, blocking.rows);
  const std::int64_t cost = std::min(block_tokens, problem.tokens) *
                            std::min(blocking.rows, problem.rows) * problem.columns;
  parallel_for(context, token_blocks * row_blocks, cost, [&](std::int64_t item, int worker) {
    const std::int64_t token = item / row_blocks * block_tokens;
    const std::int64_t row = item % row_blocks * blocking.rows;
    const std::int64_t tokens = std::min(block_tokens, problem.tokens - token);
    if (tokens <= 0) return;
    run_block(problem, blocking, token, tokens, row, std::min(blocking.rows, problem.rows - row),
              context.thread_scratch(worker));
  });
}

}  // namespace engine::cpu
