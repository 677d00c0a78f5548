// The linear of a mixture: each row of x by the matrix of the expert that was chosen for it.
//
// Rows are sorted by expert (a counting sort), so that the matrix of an expert is multiplied by all
// of its rows at once and those of the others are never read. The rows of an expert are cut into
// blocks like the tokens of a linear; a block takes a stretch of channels at a time.
#include <algorithm>

#include "kernels/cpu/launchers.h"
#include "kernels/cpu/product.h"

namespace engine::cpu {
namespace {

// Some rows of one expert, at places [begin, begin + count) of the sorted order.
struct Group {
  std::int32_t expert, begin, count;
};

// Where the sort keeps its results: all of it in one tensor of i32.
struct Sorted {
  std::int32_t* begin;  // (E + 1): where the rows of each expert begin
  std::int32_t* order;  // (T · S): the rows, sorted by expert
  Group* groups;        // (T · S) at most
  std::int64_t group_count = 0;

  static std::int64_t words(const MoeLinearCall& call) {
    constexpr std::int64_t kGroupWords = sizeof(Group) / sizeof(std::int32_t);
    return call.count + 1 + call.experts.numel() * (1 + kGroupWords);
  }
  Sorted(const MoeLinearCall& call, const Tensor& memory)
      : begin(memory.as<std::int32_t>()),
        order(begin + call.count + 1),
        groups(reinterpret_cast<Group*>(order + call.experts.numel())) {}
};

std::int32_t expert_of(const MoeLinearCall& call, std::int64_t row) {
  const std::int64_t top_k = call.experts.size(1);
  const auto* token = reinterpret_cast<const std::int32_t*>(row_of(call.experts, row / top_k));
  const std::int32_t expert = token[row % top_k];
  ENGINE_REQUIRE(expert >= 0 && expert < call.count, "moe_linear: expert ", expert, " of ",
                 call.count);
  return expert;
}

// Stable: rows of one expert stay in the order of tokens.
void sort_rows(const Context& context, const MoeLinearCall& call, Sorted& sorted) {
  const std::int64_t rows = call.experts.numel();
  std::fill_n(sorted.begin, call.count + 1, 0);
  for (std::int64_t row = 0; row < rows; ++row) ++sorted.begin[expert_of(call, row) + 1];
  for (std::int64_t e = 0; e < call.count; ++e) sorted.begin[e + 1] += sorted.begin[e];
  // Filling moves each beginning to the next one's; shifting them back restores them.
  for (std::int64_t row = 0; row < rows; ++row) {
    sorted.order[sorted.begin[expert_of(call, row)]++] = static_cast<std::int32_t>(row);
  }
  for (std::int64_t e = call.count; e > 0; --e) sorted.begin[e] = sorted.begin[e - 1];
  sorted.begin[0] = 0;
  for (std::int32_t e = 0; e < call.count; ++e) {
    const std::int32_t begin = sorted.begin[e], count = sorted.begin[e + 1] - begin;
    const auto step = static_cast<std::int32_t>(block_tokens(blocking_for(context, count), count));
    for (std::int32_t from = 0; from < count; from += step) {
      sorted.groups[sorted.group_count++] = {e, begin + from, std::min(step, count - from)};
    }
  }
}

// Rows (t, s) of a (T, S, ·) tensor; of a (T, 1, ·) one the same for every s.
RowSet rows_of(const Tensor& tensor, std::int64_t top_k) {
  const auto size = static_cast<std::int64_t>(dtype_size(tensor.dtype));
  return {.base = tensor.as<std::byte>(),
          .inner = top_k,
          .outer_bytes = tensor.stride(0) * size,
          .inner_bytes = tensor.size(1) == 1 ? 0 : tensor.stride(1) * size};
}

}  // namespace

std::size_t moe_linear_scratch_bytes(const MoeLinearCall& call) {
  return static_cast<std::size_t>(Sorted::words(call)) * sizeof(std::int32_t);
}

void moe_linear(const Context& context, const MoeLinearCall& call, Workspace scratch) {
  const std::int64_t top_k = call.experts.size(1), outputs = call.weight.rows / call.count;
  Sorted sorted(call, scratch.take(DType::kI32, {Sorted::words(call)}));
  sort_rows(context, call, sorted);
  if (sorted.group_count == 0) return;
  // One stretch for groups of every size: that of the greatest.
  std::int64_t greatest = 0;
  for (std::int64_t e = 0; e < call.count; ++e) {
    greatest = std::max<std::int64_t>(greatest, sorted.begin[e + 1] - sorted.begin[e]);
  }
  const std::int64_t stretch = blocking_for(context, greatest).rows;
  const std::int64_t row_blocks = ceil_div(outputs, stretch);
  const std::int64_t rows = ceil_div(call.experts.numel(), sorted.group_count);
  const std::int64_t cost = rows * std::min(stretch, outputs) * call.weight.columns;
  const auto body = [&](std::int64_t item, int worker) {
    const Group& group = sorted.groups[item / row_blocks];
    const std::int64_t row = item % row_blocks * stretch;
    const std::int32_t* bounds = sorted.begin + group.expert;
    const Product product = {.context = context,
                             .weight = call.weight,
                             .first = group.expert * outputs,
                             .x_type = call.x.dtype,
                             .out_type = call.out.dtype,
                             .x = rows_of(call.x, top_k),
                             .out = rows_of(call.out, top_k),
                             .residual = {},
                             .count = bounds[1] - bounds[0],
                             .tokens = sorted.order + group.begin};
    const std::int64_t end = std::min(row + stretch, outputs);
    const std::int64_t rows_at_once = blocking_for(context, product.count).rows;
    for (std::int64_t first = row; first < end; first += rows_at_once) {
      multiply_block(product, 0, group.count, first, std::min(rows_at_once, end - first), worker);
    }
  };
  parallel_for(context, sorted.group_count * row_blocks, cost, body,
               adjacent_row_blocks(context, rows, row_blocks));
}

}  // namespace engine::cpu
