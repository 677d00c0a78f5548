// The oracles of the fused ops.
#include "kernels/reference/reference.h"

namespace engine::reference {
namespace {

// Columns [begin, begin + count) of a matrix of `width` columns.
Values columns(View matrix, std::size_t width, std::size_t begin, std::size_t count) {
  Values out;
  for (std::size_t row = 0; row < matrix.size(); row += width) {
    const View part = matrix.subspan(row + begin, count);
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

}  // namespace

AttentionInResult attention_in(View x, View norm, double eps, View qkv, View rope_table,
                               std::int64_t heads, std::int64_t head_size, std::int64_t position) {
  const std::size_t width = norm.size(), joined_width = qkv.size() / width;
  const auto q_width = static_cast<std::size_t>(heads * head_size);
  const std::size_t kv_width = (joined_width - q_width) / 2;
  const auto kv_heads = static_cast<std::int64_t>(kv_width) / head_size;
  const Values hidden = rmsnorm(x, norm, eps);
  const Values joined = linear(hidden, qkv, {}, static_cast<std::int64_t>(width));
  const Values q = columns(joined, joined_width, 0, q_width);
  const Values k = columns(joined, joined_width, q_width, kv_width);
  return {rope(q, rope_table, heads, head_size, position),
          rope(k, rope_table, kv_heads, head_size, position),
          columns(joined, joined_width, q_width + kv_width, kv_width)};
}

Values attention_out(View x, View attention, View output, std::int64_t inputs) {
  return linear(attention, output, x, inputs);
}

Values feed_forward(View x, View norm, double eps, View gate_up, View down) {
  const std::size_t width = norm.size(), inner = down.size() / width;
  const Values hidden = rmsnorm(x, norm, eps);
  const Values joined = linear(hidden, gate_up, {}, static_cast<std::int64_t>(width));
  const Values activated =
      silu_mul(columns(joined, 2 * inner, 0, inner), columns(joined, 2 * inner, inner, inner));
  return linear(activated, down, x, static_cast<std::int64_t>(inner));
}

Values moe_feed_forward(View x, View norm, double eps, View router, View gate_up, View down,
                        std::int64_t top_k) {
  const auto width = static_cast<std::int64_t>(norm.size());
  const std::int64_t experts = static_cast<std::int64_t>(router.size()) / width;
  const std::size_t inner = down.size() / router.size();
  const Values hidden = rmsnorm(x, norm, eps);
  const Route route = moe_route(linear(hidden, router, {}, width), experts, top_k);
  const Values joined = moe_linear(hidden, gate_up, route.experts, top_k, experts, width);
  const Values activated =
      silu_mul(columns(joined, 2 * inner, 0, inner), columns(joined, 2 * inner, inner, inner));
  const Values outputs =
      moe_linear(activated, down, route.experts, top_k, experts, static_cast<std::int64_t>(inner));
  return moe_combine(outputs, route.weights, x, top_k);
}

Values mlp_layer_norm(View x, const MlpLayerNorm& mlp) {
  const std::size_t inner = mlp.up_bias.size();
  const std::size_t inputs = mlp.up.size() / inner, tokens = x.size() / inputs;
  const auto repeat = [&](View row) {
    Values rows;
    for (std::size_t t = 0; t < tokens; ++t) rows.insert(rows.end(), row.begin(), row.end());
    return rows;
  };
  Values hidden = linear(x, mlp.up, repeat(mlp.up_bias), static_cast<std::int64_t>(inputs));
  if (mlp.gelu) hidden = gelu(hidden);
  hidden = layernorm(hidden, mlp.inner_weight, mlp.inner_bias, mlp.eps);
  const Values out =
      linear(hidden, mlp.down, repeat(mlp.down_bias), static_cast<std::int64_t>(inner));
  return layernorm(out, mlp.outer_weight, mlp.outer_bias, mlp.eps);
}

}  // namespace engine::reference
