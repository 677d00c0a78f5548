// out = x · Wᵀ (+ residual), in blocks of tokens and of rows of W.
#include <algorithm>

#include "kernels/cpu/launchers.h"
#include "kernels/cpu/product.h"

namespace engine::cpu {
namespace {

RowSet rows_of(const Tensor& tensor) {
  if (!tensor) return {};
  return {.base = tensor.as<std::byte>(),
          .outer_bytes = tensor.stride(0) * static_cast<std::int64_t>(dtype_size(tensor.dtype))};
}

}  // namespace

void linear(const Context& context, const LinearCall& call) {
  Product product = {.context = context,
                     .weight = call.weight,
                     .x_type = call.x.dtype,
                     .out_type = call.out.dtype,
                     .x = rows_of(call.x),
                     .out = rows_of(call.out),
                     .residual = rows_of(call.residual),
                     .count = call.x.size(0)};
  const std::int64_t all_tokens = product.count, all_rows = call.weight.rows;
  const Blocking& blocking = blocking_for(all_tokens);
  const std::int64_t step = block_tokens(blocking, all_tokens);
  if (step == 0) return;
  prepare(product);
  const std::int64_t token_blocks = ceil_div(all_tokens, step);
  const std::int64_t row_blocks = ceil_div(all_rows, blocking.rows);
  const std::int64_t cost =
      std::min(step, all_tokens) * std::min(blocking.rows, all_rows) * call.weight.columns;
  const auto body = [&](std::int64_t item, int worker) {
    const std::int64_t token = item / row_blocks * step, row = item % row_blocks * blocking.rows;
    multiply_block(product, token, std::min(step, all_tokens - token), row,
                   std::min(blocking.rows, all_rows - row), worker);
  };
  parallel_for(context, token_blocks * row_blocks, cost, body,
               adjacent_row_blocks(context, all_tokens, row_blocks));
}

}  // namespace engine::cpu
