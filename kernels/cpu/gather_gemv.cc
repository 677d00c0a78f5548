// One vector by the matrices that were chosen, in blocks of rows.
#include <algorithm>

#include "kernels/cpu/launchers.h"
#include "kernels/cpu/product.h"

namespace engine::cpu {

void gather_gemv(const Context& context, const GatherGemvCall& call) {
  const std::int64_t chosen = call.out.size(0), outputs = call.out.size(1);
  const auto expert_of = [&](std::int64_t s) -> std::int64_t {
    return call.experts ? call.experts.as<std::int32_t>()[s * call.experts.stride(0)] : s;
  };
  for (std::int64_t s = 0; s < chosen; ++s) {
    ENGINE_REQUIRE(expert_of(s) >= 0 && expert_of(s) < call.count, "gather_gemv: expert ",
                   expert_of(s), " of ", call.count);
  }
  const std::int64_t stretch = blocking_for(context, 1).rows,
                     row_blocks = ceil_div(outputs, stretch);
  const std::int64_t cost = std::min(stretch, outputs) * call.weight.columns;
  const auto product = [&](std::int64_t s) {
    return Product{.context = context,
                   .weight = call.weight,
                   .first = expert_of(s) * outputs,
                   .x_type = call.x.dtype,
                   .out_type = call.out.dtype,
                   .x = {.base = call.x.as<std::byte>()},
                   .out = {.base = row_of(call.out, s)},
                   .residual = {},
                   .count = 1};
  };
  if (chosen == 0 || outputs == 0) return;
  Product ready = product(0);
  prepare(ready);
  parallel_for(context, chosen * row_blocks, cost, [&](std::int64_t item, int worker) {
    const std::int64_t row = item % row_blocks * stretch;
    const Product own = product(item / row_blocks);
    Product part = ready;  // x is that of all
    part.first = own.first;
    part.out = own.out;
    multiply_block(part, 0, 1, row, std::min(stretch, outputs - row), worker);
  });
}

}  // namespace engine::cpu
