#include "kernels/cpu/product.h"

#include <algorithm>
#include <cstring>

namespace engine::cpu {
namespace {

constexpr std::int64_t kTokenTile = 12;  // a multiple of every register tile

constexpr std::int64_t kFewTokens = 7;
constexpr Blocking kFew = {.tokens = kFewTokens, .rows = 48, .columns = 4096};
constexpr Blocking kMany = {.tokens = 132, .rows = 72, .columns = 1024};
constexpr Blocking kPanels = {.tokens = 132, .rows = 144, .columns = kPanelColumns};
static_assert(kMany.tokens % kTokenTile == 0 && kPanels.tokens % kTokenTile == 0);

constexpr std::size_t bytes_of(const Blocking& blocking) {
  return static_cast<std::size_t>(blocking.sum_floats() + blocking.x_floats()) * sizeof(float);
}
// With x, and quantised weights, in bf16.
constexpr std::size_t pair_bytes_of(const Blocking& blocking) {
  const std::int64_t pair_rows = blocking.tokens + blocking.rows;
  return static_cast<std::size_t>(blocking.sum_floats()) * sizeof(float) +
         static_cast<std::size_t>(pair_rows * blocking.pair_stride()) * sizeof(bf16_t);
}
static_assert(bytes_of(kFew) <= Context::kScratchBytes &&
              bytes_of(kMany) <= Context::kScratchBytes &&
              bytes_of(kPanels) <= Context::kScratchBytes &&
              pair_bytes_of(kMany) <= Context::kScratchBytes);

std::int64_t index_of(const Product& p, std::int64_t token) {
  return p.tokens == nullptr ? token : p.tokens[token];
}

const std::byte* weight_at(const Product& p, std::int64_t row, std::int64_t column) {
  // A row of one column is one element.
  const auto size = static_cast<std::int64_t>(format_info(p.weight.format).row_bytes(1));
  return static_cast<const std::byte*>(p.weight.data) +
         ((p.first + row) * p.weight.columns + column) * size;
}

// Whether bf16 is multiplied by bf16, without widening either. int8 is made into bf16 first, which
// a few tokens don't pay for.
bool multiplies_pairs(const Product& p) {
  constexpr std::int64_t kInt8PairTokens = 16;
  static_assert(kInt8PairTokens > kFewTokens, "only large blocks have room for both operands");
  if (p.x_type != DType::kBF16 || p.context.kernels->dot_block_bf16 == nullptr) return false;
  return p.weight.format == QuantFormat::kBF16 ||
         (p.weight.format == QuantFormat::kInt8 && p.count >= kInt8PairTokens);
}

// Whether x of a few tokens is multiplied as digits: f32 has more bits than these hold.
bool multiplies_digits(const Product& p) {
  return p.context.kernels->dot_block_digits != nullptr && p.x_type != DType::kF32 &&
         p.weight.format == QuantFormat::kInt8 && p.count <= kFewTokens && p.tokens == nullptr;
}

const std::byte* x_at(const Product& p, std::int64_t token, std::int64_t column) {
  return p.x.at(index_of(p, token)) + column * static_cast<std::int64_t>(dtype_size(p.x_type));
}

// The product of columns [k, k + block.columns) of x, from `token` on, by block.w: in f32 …
void dot_widened(const Product& p, const Blocking& blocking, std::int64_t token, std::int64_t k,
                 DotBlock block, float* x) {
  const Kernels& kernels = *p.context.kernels;
  const auto& dot =
      multiplies_panels(p.context, p.count) ? kernels.dot_block_panels : kernels.dot_block;
  if (p.ready != nullptr) {
    block.x = static_cast<const float*>(p.ready) + token * p.ready_stride + k;
    block.x_stride = p.ready_stride;
  } else {
    const auto widen = kernels.to_float[type_index(p.x_type)];
    for (std::int64_t m = 0; m < block.tokens; ++m) {
      widen(x_at(p, token + m, k), x + m * blocking.stride(), block.columns);
    }
    block.x = x;
    block.x_stride = blocking.stride();
  }
  dot[weight_index(p.weight.format)](block);
}

// … or in pairs of bf16.
void dot_pairs(const Product& p, const Blocking& blocking, std::int64_t token, std::int64_t k,
               DotBlock block, bf16_t* x) {
  if (p.ready != nullptr) {
    block.x = static_cast<const bf16_t*>(p.ready) + token * p.ready_stride + k;
    block.x_stride = p.ready_stride;
    p.context.kernels->dot_block_bf16(block);
    return;
  }
  const std::int64_t stride = blocking.pair_stride();
  for (std::int64_t m = 0; m < block.tokens; ++m) {
    std::memcpy(x + m * stride, x_at(p, token + m, k),
                static_cast<std::size_t>(block.columns) * sizeof(bf16_t));
  }
  block.x = x;
  block.x_stride = stride;
  if (p.weight.format == QuantFormat::kInt8) {
    const auto* q = static_cast<const std::int8_t*>(block.w);
    bf16_t* w = x + blocking.tokens * stride;
    for (std::int64_t n = 0; n < block.rows; ++n) {
      // The next rows are as short as this one, too short for the hardware to see them coming.
      constexpr std::int64_t kAhead = 2, kLine = 64;
      const std::int8_t* ahead = q + std::min(n + kAhead, block.rows - 1) * block.w_stride;
      for (std::int64_t i = 0; i < block.columns; i += kLine) __builtin_prefetch(ahead + i);
      p.context.kernels->int8_to_bf16(q + n * block.w_stride, w + n * stride, block.columns);
    }
    block.w = w;
    block.w_stride = stride;
  }
  p.context.kernels->dot_block_bf16(block);
}

// … or by digits, ready.
void dot_digits(const Product& p, std::int64_t token, std::int64_t k, const DotBlock& block) {
  p.context.kernels->dot_block_digits(
      {.w = static_cast<const std::int8_t*>(block.w),
       .w_stride = block.w_stride,
       .rows = block.rows,
       .digits = static_cast<const std::uint8_t*>(p.ready) + token * kDigits * p.ready_stride + k,
       .plane = p.ready_stride,
       .units = p.units + token,
       .tokens = block.tokens,
       .columns = block.columns,
       .out = block.out,
       .out_stride = block.out_stride,
       .accumulate = block.accumulate});
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

bool multiplies_panels(const Context& context, std::int64_t tokens) {
  constexpr std::int64_t kLeastTokens = 24;  // fewer don't pay for making panels
  static_assert(kLeastTokens > kFewTokens);
  return tokens >= kLeastTokens && context.kernels->dot_block_panels[0] != nullptr;
}

const Blocking& blocking_for(const Context& context, std::int64_t tokens) {
  if (multiplies_panels(context, tokens)) return kPanels;
  return tokens <= kFewTokens ? kFew : kMany;
}

std::int64_t adjacent_row_blocks(const Context& context, std::int64_t tokens,
                                 std::int64_t row_blocks) {
  constexpr std::int64_t kRunsOfThread = 2;
  if (tokens > kFew.tokens) return 1;
  return std::max<std::int64_t>(1, row_blocks / (context.threads * kRunsOfThread));
}

std::int64_t block_tokens(const Blocking& blocking, std::int64_t tokens) {
  const std::int64_t blocks = std::max<std::int64_t>(ceil_div(tokens, blocking.tokens), 1);
  return ceil_div(ceil_div(tokens, blocks), kTokenTile) * kTokenTile;
}

// Makes x ready as digits behind the sums that thread 0 needs itself; false where there is no room.
bool prepare_digits(Product& p) {
  constexpr std::int64_t kLine = 64;
  const std::int64_t columns = p.weight.columns, plane = ceil_div(columns, kLine) * kLine;
  const std::int64_t units = ceil_div(kFewTokens * std::int64_t{sizeof(double)}, kLine) * kLine;
  const std::int64_t bytes =
      units + plane * std::int64_t{sizeof(float)} + p.count * kDigits * plane;
  constexpr auto kRoom =
      static_cast<std::int64_t>(Context::kScratchBytes - kFew.sum_floats() * sizeof(float));
  if (bytes > kRoom) return false;
  auto* at = reinterpret_cast<std::byte*>(p.context.thread_scratch(0) + kFew.sum_floats());
  auto* unit = reinterpret_cast<double*>(at);
  auto* row = reinterpret_cast<float*>(at + units);
  auto* digits = reinterpret_cast<std::uint8_t*>(row + plane);
  for (std::int64_t m = 0; m < p.count; ++m) {
    p.context.kernels->to_float[type_index(p.x_type)](p.x.at(m), row, columns);
    unit[m] = p.context.kernels->to_digits(row, columns, digits + m * kDigits * plane, plane);
  }
  p.units = unit;
  p.ready = digits;
  p.ready_stride = plane;
  return true;
}

void prepare(Product& p) {
  if (p.count > kFewTokens || p.tokens != nullptr) return;
  if (multiplies_digits(p) && prepare_digits(p)) return;
  const bool as_it_lies = p.x_type == DType::kF32 || multiplies_pairs(p);
  const auto x_size = static_cast<std::int64_t>(dtype_size(p.x_type));
  if (as_it_lies) {
    p.ready = p.x.base;
    p.ready_stride = p.x.outer_bytes / x_size;
    return;
  }
  // Behind the sums that thread 0 needs itself, as far as there is room.
  constexpr auto kFloats = static_cast<std::int64_t>(Context::kScratchBytes / sizeof(float));
  if (p.count * p.weight.columns > kFloats - kFew.sum_floats()) return;
  float* x = p.context.thread_scratch(0) + kFew.sum_floats();
  const auto widen = p.context.kernels->to_float[type_index(p.x_type)];
  for (std::int64_t m = 0; m < p.count; ++m) {
    widen(p.x.at(m), x + m * p.weight.columns, p.weight.columns);
  }
  p.ready = x;
  p.ready_stride = p.weight.columns;
}

void multiply_block(const Product& p, std::int64_t token, std::int64_t tokens, std::int64_t row,
                    std::int64_t rows, int worker) {
  const Blocking& blocking = blocking_for(p.context, p.count);
  float* sums = p.context.thread_scratch(worker);  // (tokens, rows)
  const bool pairs = multiplies_pairs(p);
  if (p.weight.columns == 0) std::fill_n(sums, blocking.sum_floats(), 0.0f);
  for (std::int64_t k = 0; k < p.weight.columns; k += blocking.columns) {
    DotBlock block = {.w = weight_at(p, row, k),
                      .w_stride = p.weight.columns,
                      .rows = rows,
                      .x = nullptr,
                      .x_stride = 0,
                      .tokens = tokens,
                      .columns = std::min(blocking.columns, p.weight.columns - k),
                      .out = sums,
                      .out_stride = blocking.rows,
                      .accumulate = k > 0};
    void* scratch = sums + blocking.sum_floats();
    if (p.units != nullptr) {
      dot_digits(p, token, k, block);
    } else if (pairs) {
      dot_pairs(p, blocking, token, k, block, static_cast<bf16_t*>(scratch));
    } else {
      dot_widened(p, blocking, token, k, block, static_cast<float*>(scratch));
    }
  }
  finish(p, blocking, sums, token, tokens, row, rows);
}

}  // namespace engine::cpu
