// The linear of a mixture: each row of x by the matrix of the expert that was chosen for it.
#include <algorithm>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {

std::size_t moe_linear_scratch_bytes(const MoeLinearCall&) { return 0; }

void moe_linear(const Context& context, const MoeLinearCall& call, Workspace) {
  constexpr std::int64_t kRows = 48;
  const std::int64_t top_k = call.experts.size(1), columns = call.weight.columns;
  const std::int64_t rows = call.weight.rows / call.count, blocks = ceil_div(rows, kRows);
  const DType weight_type = storage_dtype(call.weight.format);
  const auto widen = context.kernels->to_float[type_index(call.x.dtype)];
  const auto narrow = context.kernels->from_float[type_index(call.out.dtype)];
  const auto dot = context.kernels->dot_block[type_index(weight_type)];
  ENGINE_REQUIRE(static_cast<std::size_t>(columns) <= Context::kScratchBytes / sizeof(float),
                 "moe_linear: ", columns, " columns do not fit the scratch of a thread");
  parallel_for(
      context, call.x.size(0) * top_k * blocks, kRows * columns,
      [&](std::int64_t item, int worker) {
        const std::int64_t t = item / blocks / top_k, s = item / blocks % top_k;
        const std::int64_t row = item % blocks * kRows, count = std::min(kRows, rows - row);
        const auto expert = reinterpret_cast<const std::int32_t*>(row_of(call.experts, t))[s];
        float* x = context.thread_scratch(worker);
        widen(row_of(call.x, t, call.x.size(1) == 1 ? 0 : s), x, columns);
        float sums[kRows] = {};
        dot({.w = static_cast<const std::byte*>(call.weight.data) +
                  (expert * rows + row) * columns *
                      static_cast<std::int64_t>(dtype_size(weight_type)),
             .w_stride = columns,
             .rows = count,
             .x = x,
             .x_stride = columns,
             .tokens = 1,
             .columns = columns,
             .out = sums,
             .out_stride = kRows,
             .accumulate = false});
        narrow(sums,
               row_of(call.out, t, s) + row * static_cast<std::int64_t>(dtype_size(call.out.dtype)),
               count);
      });
}

}  // namespace engine::cpu
