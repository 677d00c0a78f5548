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

// The tokens that are widened at a time, enough that threads seldom wait for each other, by the
// floats of a row.
Shape widened_shape(std::int64_t tokens, std::int64_t columns) {
  constexpr std::int64_t kMost = 528;
  return {std::min(tokens, kMost), padded_stride(columns)};
}

// `tokens` rows of out, the first of the product's, in blocks of tokens and of rows of W.
void multiply(const Product& product, std::int64_t tokens) {
  const Context& context = product.context;
  const std::int64_t rows = product.weight.rows;
  const Blocking& blocking = blocking_for(context, product.count);
  const std::int64_t step = block_tokens(blocking, tokens);
  const std::int64_t token_blocks = ceil_div(tokens, step);
  const std::int64_t row_blocks = ceil_div(rows, blocking.rows);
  const std::int64_t cost =
      std::min(step, tokens) * std::min(blocking.rows, rows) * product.weight.columns;
  const auto body = [&](std::int64_t item, int worker) {
    const std::int64_t token = item / row_blocks * step, row = item % row_blocks * blocking.rows;
    multiply_block(product, token, std::min(step, tokens - token), row,
                   std::min(blocking.rows, rows - row), worker);
  };
  parallel_for(context, token_blocks * row_blocks, cost, body,
               adjacent_row_blocks(context, tokens, row_blocks));
}

// The same for all tokens, with x widened in scratch once for all blocks.
void multiply_widened(const Product& product, Workspace& scratch) {
  const Context& context = product.context;
  const std::int64_t columns = product.weight.columns;
  const Shape shape = widened_shape(product.count, columns);
  const std::int64_t step = shape[0], stride = shape[1];
  auto* widened = scratch.take(DType::kF32, shape).as<float>();
  const auto widen = context.kernels->to_float[type_index(product.x_type)];
  for (std::int64_t first = 0; first < product.count; first += step) {
    const std::int64_t tokens = std::min(step, product.count - first);
    parallel_for(context, tokens, columns, [&](std::int64_t token, int) {
      widen(product.x.at(first + token), widened + token * stride, columns);
    });
    Product part = product;
    part.ready = widened;
    part.ready_stride = stride;
    part.out.base = product.out.at(first);
    if (product.residual.base != nullptr) part.residual.base = product.residual.at(first);
    multiply(part, tokens);
  }
}

}  // namespace

std::size_t linear_scratch_bytes(const Context& context, const LinearCall& call) {
  const std::int64_t tokens = call.x.size(0);
  if (!multiplies_panels(context, tokens)) return 0;
  return static_cast<std::size_t>(widened_shape(tokens, call.weight.columns).numel()) *
         sizeof(float);
}

void linear(const Context& context, const LinearCall& call, Workspace scratch) {
  Product product = {.context = context,
                     .weight = call.weight,
                     .x_type = call.x.dtype,
                     .out_type = call.out.dtype,
                     .x = rows_of(call.x),
                     .out = rows_of(call.out),
                     .residual = rows_of(call.residual),
                     .count = call.x.size(0)};
  if (product.count == 0) return;
  if (multiplies_panels(context, product.count)) {
    multiply_widened(product, scratch);
  } else {
    prepare(product);
    multiply(product, product.count);
  }
}

}  // namespace engine::cpu
