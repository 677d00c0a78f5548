#include "kernels/cpu/product.h"

#include <algorithm>
#include <cstring>

namespace engine::cpu {
namespace {

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

std::int64_t index_of(const Product& p, std::int64_t token) {
  return p.tokens == nullptr ? token : p.tokens[token];
}

const std::byte* weight_at(const Product& p, std::int64_t row, std::int64_t column) {
  // A row of one column is one element.
  const auto size = static_cast<std::int64_t>(format_info(p.weight.format).row_bytes(1));
  return static_cast<const std::byte*>(p.weight.data) +
         ((p.first + row) * p.weight.columns + column) * size;
}

// Whether bf16 is multiplied by bf16, without widening either. Below three tokens, reading W is
// what takes the time.
bool multiplies_pairs(const Product& p) {
  constexpr std::int64_t kPairTokens = 3;
  return p.weight.format == QuantFormat::kBF16 && p.x_type == DType::kBF16 &&
         p.count >= kPairTokens && p.context.kernels->dot_block_bf16 != nullptr;
}

// Scales sums (tokens, rows), adds the residual, rounds and stores them.
void finish(const Product& p, const Blocking& blocking, const float* sums, std::int64_t token,
            std::int64_t tokens, std::int64_t row, std::int64_t rows) {
  const auto store = p.context.kernels->finish[type_index(p.out_type)];
  const auto offset = row * static_cast<std::int64_t>(dtype_size(p.out_type));
  const auto* scales = static_cast<const bf16_t*>(p.weight.scales);
  if (scales != nullptr) scales += p.first + row;
  for (std::int64_t m = 0; m < tokens; ++m) {
    const std::int64_t index = index_of(p, token + m);
    const std::byte* residual =
        p.residual.base != nullptr ? p.residual.at(index) + offset : nullptr;
    store(sums + m * blocking.rows, scales, residual, p.out.at(index) + offset, rows);
  }
}

}  // namespace

const Blocking& blocking_for(std::int64_t tokens) { return tokens <= kFewTokens ? kFew : kMany; }

std::int64_t block_tokens(const Blocking& blocking, std::int64_t tokens) {
  const std::int64_t blocks = std::max<std::int64_t>(ceil_div(tokens, blocking.tokens), 1);
  return ceil_div(ceil_div(tokens, blocks), kTokenTile) * kTokenTile;
}

void multiply_block(const Product& p, std::int64_t token, std::int64_t tokens, std::int64_t row,
                    std::int64_t rows, int worker) {
  const Blocking& blocking = blocking_for(p.count);
  const Kernels& kernels = *p.context.kernels;
  const bool pairs = multiplies_pairs(p);
  const auto widen = kernels.to_float[type_index(p.x_type)];
  const auto dot =
      pairs ? kernels.dot_block_bf16 : kernels.dot_block[weight_index(p.weight.format)];
  const auto x_size = static_cast<std::int64_t>(dtype_size(p.x_type));
  float* sums = p.context.thread_scratch(worker);  // (tokens, rows)
  float* x = sums + blocking.sum_floats();         // (tokens, columns), rows stride() apart
  if (p.weight.columns == 0) std::fill_n(sums, blocking.sum_floats(), 0.0f);
  for (std::int64_t k = 0; k < p.weight.columns; k += blocking.columns) {
    const std::int64_t columns = std::min(blocking.columns, p.weight.columns - k);
    for (std::int64_t m = 0; m < tokens; ++m) {
      const std::byte* from = p.x.at(index_of(p, token + m)) + k * x_size;
      float* to = x + m * blocking.stride();
      if (pairs) {
        std::memcpy(to, from, static_cast<std::size_t>(columns) * sizeof(bf16_t));
      } else {
        widen(from, to, columns);
      }
    }
    dot({.w = weight_at(p, row, k),
         .w_stride = p.weight.columns,
         .rows = rows,
         .x = x,
         .x_stride = pairs ? 2 * blocking.stride() : blocking.stride(),
         .tokens = tokens,
         .columns = columns,
         .out = sums,
         .out_stride = blocking.rows,
         .accumulate = k > 0});
  }
  finish(p, blocking, sums, token, tokens, row, rows);
}

}  // namespace engine::cpu
