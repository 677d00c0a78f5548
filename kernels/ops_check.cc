// The operand checks of every op, shared by the backends.
#include "kernels/core/check.h"
#include "kernels/ops.h"

namespace engine {
namespace {

void expect_shape(const char* op, const char* name, const Tensor& tensor, Shape shape) {
  ENGINE_REQUIRE(tensor, op, ": ", name, " is absent");
  ENGINE_REQUIRE(tensor.shape == shape, op, ": ", name, " has shape ", tensor.shape, ", expected ",
                 shape);
  ENGINE_REQUIRE(tensor.has_dense_rows(), op, ": the rows of ", name, " are not dense");
}

void expect_dtype(const char* op, const char* name, const Tensor& tensor, DType dtype) {
  ENGINE_REQUIRE(tensor.dtype == dtype, op, ": ", name, " is ", tensor.dtype, ", expected ", dtype);
}

void expect(const char* op, const char* name, const Tensor& tensor, DType dtype, Shape shape) {
  expect_shape(op, name, tensor, shape);
  expect_dtype(op, name, tensor, dtype);
}

void expect_rank(const char* op, const char* name, const Tensor& tensor, int rank) {
  ENGINE_REQUIRE(tensor && tensor.rank() == rank, op, ": ", name, " must have rank ", rank,
                 ", has ", tensor.shape);
  ENGINE_REQUIRE(tensor.has_dense_rows(), op, ": the rows of ", name, " are not dense");
}

void expect_float(const char* op, const char* name, const Tensor& tensor) {
  ENGINE_REQUIRE(is_float(tensor.dtype), op, ": ", name, " is ", tensor.dtype,
                 ", expected a floating-point type");
}

void expect_weight(const char* op, const char* name, const Weight& weight, std::int64_t rows,
                   std::int64_t columns) {
  ENGINE_REQUIRE(weight && weight.rows == rows && weight.columns == columns, op, ": ", name,
                 " is (", weight.rows, ", ", weight.columns, "), expected (", rows, ", ", columns,
                 ")");
}

void expect_rope(const char* op, const Tensor& table, const Tensor& position,
                 std::int64_t head_size) {
  expect_rank(op, "table", table, 2);
  expect(op, "table", table, DType::kF32, {table.size(0), head_size});
  ENGINE_REQUIRE(table.size(0) > 0 && head_size % 2 == 0, op, ": an odd head size ", head_size,
                 " or an empty table");
  expect(op, "position", position, DType::kI32, {1});
}

// What attention and its score softmax are told beside their operands.
void expect_rule(const char* op, const Tensor& position, std::int64_t window,
                 const ScoreFunction& score) {
  constexpr std::int64_t kMostPositions = 0x3fffffff;
  if (position) expect(op, "position", position, DType::kI32, {1});
  ENGINE_REQUIRE(window >= 0, op, ": a negative window ", window);
  const bool windowed = score.kind == ScoreKind::kSlidingWindow;
  ENGINE_REQUIRE(score.extent >= (windowed ? 1 : 0) && score.extent <= kMostPositions, op, ": ",
                 score_name(score.kind), " over ", score.extent, " positions");
  ENGINE_REQUIRE(score.kind != ScoreKind::kSoftCap || score.cap > 0.0f, op, ": a cap of ",
                 score.cap);
  if (score.kind == ScoreKind::kDocument) {
    expect_rank(op, "spans", score.spans, 2);
    ENGINE_REQUIRE(score.spans.size(0) > 0, op, ": spans is empty");
    expect(op, "spans", score.spans, DType::kI32, {score.spans.size(0), 2});
    ENGINE_REQUIRE(score.spans.is_contiguous(), op, ": spans is not contiguous");
  }
}

void expect_ragged(const char* op, const AttentionBatchCall& call) {
  ENGINE_REQUIRE(call.query_offsets && call.key_offsets, op,
                 ": offsets of queries or of keys alone");
  expect_rank(op, "query_offsets", call.query_offsets, 1);
  ENGINE_REQUIRE(call.query_offsets.size(0) >= 1, op, ": query_offsets is empty");
  expect(op, "query_offsets", call.query_offsets, DType::kI32, call.query_offsets.shape);
  expect(op, "key_offsets", call.key_offsets, DType::kI32, call.query_offsets.shape);
  ENGINE_REQUIRE(call.q.size(0) == 1, op, ": a ragged batch as ", call.q.size(0),
                 " planes of q, expected 1");
  ENGINE_REQUIRE(call.max_queries >= 0 && call.max_queries <= call.q.size(1), op, ": max_queries ",
                 call.max_queries, " of ", call.q.size(1), " rows");
  ENGINE_REQUIRE(call.max_keys >= 0 && call.max_keys <= call.k.size(1), op, ": max_keys ",
                 call.max_keys, " of ", call.k.size(1), " rows");
}

void check_batch(const char* op, const AttentionBatchCall& call) {
  constexpr std::int64_t kMostRows = 0x3fffffff;
  expect_rank(op, "q", call.q, 4);
  expect_float(op, "q", call.q);
  expect(op, "out", call.out, call.q.dtype, call.q.shape);
  expect_rank(op, "k", call.k, 4);
  const std::int64_t batch = call.q.size(0), heads = call.q.size(2), kv_heads = call.k.size(2);
  expect(op, "k", call.k, call.q.dtype, {batch, call.k.size(1), kv_heads, call.q.size(3)});
  expect(op, "v", call.v, call.q.dtype, call.k.shape);
  ENGINE_REQUIRE(kv_heads > 0 && heads % kv_heads == 0, op, ": ", heads, " query heads over ",
                 kv_heads, " key/value heads");
  ENGINE_REQUIRE(call.q.size(1) <= kMostRows && call.k.size(1) <= kMostRows, op, ": ",
                 call.q.size(1), " queries and ", call.k.size(1), " keys, at most ", kMostRows);
  expect_rule(op, call.position, call.window, call.score);
  if (call.query_offsets || call.key_offsets) expect_ragged(op, call);
  if (call.lse) expect(op, "lse", call.lse, DType::kF32, {batch, heads, call.q.size(1)});
}

}  // namespace

void check_call(const EmbedCall& call) {
  expect_rank("embed", "out", call.out, 2);
  expect_float("embed", "out", call.out);
  expect("embed", "ids", call.ids, DType::kI32, {call.out.size(0)});
  expect_weight("embed", "table", call.table, call.table.rows, call.out.size(1));
  const FormatInfo& info = format_info(call.table.format);
  ENGINE_REQUIRE(info.scale_bytes == 0, "embed: the table is stored as ", info.name,
                 ", expected a plain floating-point type");
}

void check_call(const RmsNormCall& call) {
  expect_rank("rmsnorm", "x", call.x, 2);
  expect_float("rmsnorm", "x", call.x);
  expect("rmsnorm", "out", call.out, call.x.dtype, call.x.shape);
  expect("rmsnorm", "weight", call.weight, call.x.dtype, {call.x.size(1)});
}

void check_call(const LinearCall& call) {
  expect_rank("linear", "x", call.x, 2);
  expect_float("linear", "x", call.x);
  expect_weight("linear", "weight", call.weight, call.weight.rows, call.x.size(1));
  expect_shape("linear", "out", call.out, {call.x.size(0), call.weight.rows});
  ENGINE_REQUIRE(call.out.dtype == call.x.dtype || call.out.dtype == DType::kF32, "linear: out is ",
                 call.out.dtype, ", expected ", call.x.dtype, " or f32");
  if (call.residual) expect("linear", "residual", call.residual, call.out.dtype, call.out.shape);
  if (call.bias) {
    expect("linear", "bias", call.bias, call.out.dtype, {call.weight.rows});
    ENGINE_REQUIRE(!call.residual, "linear: a bias beside a residual");
  }
}

void check_call(const RopeCall& call) {
  expect_rank("rope", "x", call.x, 3);
  expect_float("rope", "x", call.x);
  expect("rope", "out", call.out, call.x.dtype, call.x.shape);
  expect_rope("rope", call.table, call.position, call.x.size(2));
}

void check_call(const KvAppendCall& call) {
  expect_rank("kv_append", "k", call.k, 3);
  expect_float("kv_append", "k", call.k);
  expect_rank("kv_append", "k_cache", call.k_cache, 3);
  const Shape cache = {call.k.size(1), call.k_cache.size(1), call.k.size(2)};
  expect("kv_append", "v", call.v, call.k.dtype, call.k.shape);
  expect("kv_append", "k_cache", call.k_cache, call.k.dtype, cache);
  expect("kv_append", "v_cache", call.v_cache, call.k.dtype, cache);
  expect("kv_append", "position", call.position, DType::kI32, {1});
}

void check_call(const AttentionCall& call) {
  expect_rank("attention", "q", call.q, 3);
  expect_float("attention", "q", call.q);
  expect("attention", "out", call.out, call.q.dtype, call.q.shape);
  expect_rank("attention", "k_cache", call.k_cache, 3);
  const std::int64_t tokens = call.q.size(0), heads = call.q.size(1);
  const Shape cache = {call.k_cache.size(0), call.k_cache.size(1), call.q.size(2)};
  expect("attention", "k_cache", call.k_cache, call.q.dtype, cache);
  expect("attention", "v_cache", call.v_cache, call.q.dtype, cache);
  expect("attention", "position", call.position, DType::kI32, {1});
  ENGINE_REQUIRE(cache[0] > 0 && heads % cache[0] == 0, "attention: ", heads, " query heads over ",
                 cache[0], " key/value heads");
  ENGINE_REQUIRE(call.bound >= tokens && call.bound <= cache[1], "attention: bound ", call.bound,
                 " outside [", tokens, ", ", cache[1], "]");
  ENGINE_REQUIRE(call.window >= 0, "attention: a negative window ", call.window);
  if (call.lse) expect("attention", "lse", call.lse, DType::kF32, {heads, tokens});
}

void check_call(const BatchMatmulCall& call) {
  expect_rank("batch_matmul", "a", call.a, 4);
  expect_float("batch_matmul", "a", call.a);
  expect_rank("batch_matmul", "b", call.b, 4);
  const Shape& a = call.a.shape;
  const std::int64_t columns = call.b.size(call.b_rows_summed ? 3 : 2);
  expect("batch_matmul", "b", call.b, call.a.dtype,
         call.b_rows_summed ? Shape{a[0], a[1], a[3], columns} : Shape{a[0], a[1], columns, a[3]});
  expect("batch_matmul", "out", call.out, call.a.dtype, {a[0], a[1], a[2], columns});
}

void check_call(const ScoreSoftmaxCall& call) {
  expect_rank("score_softmax", "x", call.x, 4);
  expect_float("score_softmax", "x", call.x);
  expect("score_softmax", "out", call.out, call.x.dtype, call.x.shape);
  expect_rule("score_softmax", call.position, call.window, call.score);
}

void check_call(const AttentionBatchCall& call) { check_batch("attention_batch", call); }

void check_call(const AttentionGradCall& call) {
  const char* op = "attention_backward";
  check_batch(op, call.forward);
  ENGINE_REQUIRE(call.forward.lse, op, ": lse is absent");
  const DType dtype = call.forward.q.dtype;
  expect(op, "dout", call.dout, dtype, call.forward.q.shape);
  expect(op, "dq", call.dq, dtype, call.forward.q.shape);
  expect(op, "dk", call.dk, dtype, call.forward.k.shape);
  expect(op, "dv", call.dv, dtype, call.forward.k.shape);
}

void check_call(const SiluMulCall& call) {
  expect_rank("silu_mul", "gate", call.gate, 2);
  expect_float("silu_mul", "gate", call.gate);
  expect("silu_mul", "up", call.up, call.gate.dtype, call.gate.shape);
  expect("silu_mul", "out", call.out, call.gate.dtype, call.gate.shape);
}

void check_call(const AddCall& call) {
  expect_rank("add", "a", call.a, 2);
  expect_float("add", "a", call.a);
  expect("add", "b", call.b, call.a.dtype, call.a.shape);
  expect("add", "out", call.out, call.a.dtype, call.a.shape);
}

void check_call(const SampleCall& call) {
  expect_rank("sample", "logits", call.logits, 1);
  const std::int64_t vocabulary = call.logits.size(0);
  ENGINE_REQUIRE(vocabulary > 0 && call.advance >= 0, "sample: an empty vocabulary or a negative ",
                 "advance ", call.advance);
  expect_dtype("sample", "logits", call.logits, DType::kF32);
  expect("sample", "params", call.params, DType::kU8,
         {static_cast<std::int64_t>(sizeof(SamplingParams))});
  expect("sample", "seen", call.seen, DType::kU8, {vocabulary});
  expect("sample", "position", call.position, DType::kI32, {1});
  expect_rank("sample", "next_ids", call.next_ids, 1);
  expect_dtype("sample", "next_ids", call.next_ids, DType::kI32);
  ENGINE_REQUIRE(call.next_ids.size(0) >= 1, "sample: next_ids is empty");
  expect_rank("sample", "sampled", call.sampled, 1);
  expect_dtype("sample", "sampled", call.sampled, DType::kI32);
  ENGINE_REQUIRE(call.sampled.size(0) >= 2 && call.sampled.size(0) % 2 == 0, "sample: sampled has ",
                 "shape ", call.sampled.shape, ", expected pairs");
}

void check_call(const MoeRouteCall& call) {
  expect_rank("moe_route", "logits", call.logits, 2);
  expect_dtype("moe_route", "logits", call.logits, DType::kF32);
  expect_rank("moe_route", "experts", call.experts, 2);
  const std::int64_t tokens = call.logits.size(0), top_k = call.experts.size(1);
  expect("moe_route", "experts", call.experts, DType::kI32, {tokens, top_k});
  expect("moe_route", "weights", call.weights, DType::kF32, {tokens, top_k});
  ENGINE_REQUIRE(top_k >= 1 && top_k <= call.logits.size(1), "moe_route: ", top_k, " of ",
                 call.logits.size(1), " experts");
}

void check_call(const MoeLinearCall& call) {
  expect_rank("moe_linear", "x", call.x, 3);
  expect_float("moe_linear", "x", call.x);
  expect_rank("moe_linear", "experts", call.experts, 2);
  const std::int64_t tokens = call.x.size(0), top_k = call.experts.size(1);
  expect("moe_linear", "experts", call.experts, DType::kI32, {tokens, top_k});
  ENGINE_REQUIRE(call.x.size(1) == 1 || call.x.size(1) == top_k, "moe_linear: x has ",
                 call.x.size(1), " rows a token, expected 1 or ", top_k);
  ENGINE_REQUIRE(call.count > 0 && call.weight.rows % call.count == 0,
                 "moe_linear: ", call.weight.rows, " rows of ", call.count, " experts");
  expect_weight("moe_linear", "weight", call.weight, call.weight.rows, call.x.size(2));
  expect("moe_linear", "out", call.out, call.x.dtype,
         {tokens, top_k, call.weight.rows / call.count});
}

void check_call(const MoeCombineCall& call) {
  expect_rank("moe_combine", "y", call.y, 3);
  expect_float("moe_combine", "y", call.y);
  const std::int64_t tokens = call.y.size(0), top_k = call.y.size(1), width = call.y.size(2);
  expect("moe_combine", "weights", call.weights, DType::kF32, {tokens, top_k});
  expect("moe_combine", "residual", call.residual, call.y.dtype, {tokens, width});
  expect("moe_combine", "out", call.out, call.y.dtype, {tokens, width});
}

void check_call(const AttentionInCall& call) {
  expect_rank("attention_in", "x", call.x, 2);
  expect_float("attention_in", "x", call.x);
  const std::int64_t tokens = call.x.size(0), width = call.x.size(1);
  expect_rank("attention_in", "q", call.q, 3);
  expect_rank("attention_in", "k_cache", call.k_cache, 3);
  const std::int64_t heads = call.q.size(1), head_size = call.q.size(2);
  const std::int64_t kv_heads = call.k_cache.size(0);
  const Shape cache = {kv_heads, call.k_cache.size(1), head_size};
  expect("attention_in", "q", call.q, call.x.dtype, {tokens, heads, head_size});
  expect("attention_in", "norm", call.norm, call.x.dtype, {width});
  expect_weight("attention_in", "qkv", call.qkv, (heads + 2 * kv_heads) * head_size, width);
  expect_rope("attention_in", call.rope_table, call.position, head_size);
  expect("attention_in", "k_cache", call.k_cache, call.x.dtype, cache);
  expect("attention_in", "v_cache", call.v_cache, call.x.dtype, cache);
}

void check_call(const AttentionOutCall& call) {
  expect_rank("attention_out", "x", call.x, 2);
  expect_rank("attention_out", "attention", call.attention, 2);
  expect_weight("attention_out", "output", call.output, call.x.size(1), call.attention.size(1));
  expect("attention_out", "attention", call.attention, call.x.dtype,
         {call.x.size(0), call.output.columns});
}

void check_call(const FeedForwardCall& call) {
  expect_rank("feed_forward", "x", call.x, 2);
  expect_float("feed_forward", "x", call.x);
  const std::int64_t width = call.x.size(1), inner = call.down.columns;
  expect("feed_forward", "norm", call.norm, call.x.dtype, {width});
  expect_weight("feed_forward", "down", call.down, width, inner);
  expect_weight("feed_forward", "gate_up", call.gate_up, 2 * inner, width);
}

void check_call(const MoeFeedForwardCall& call) {
  const char* op = "moe_feed_forward";
  expect_rank(op, "x", call.x, 2);
  expect_float(op, "x", call.x);
  const std::int64_t width = call.x.size(1), inner = call.down.columns, experts = call.experts;
  expect(op, "norm", call.norm, call.x.dtype, {width});
  ENGINE_REQUIRE(experts > 0 && call.top_k >= 1 && call.top_k <= experts, op, ": ", call.top_k,
                 " of ", experts, " experts");
  expect_weight(op, "router", call.router, experts, width);
  expect_weight(op, "gate_up", call.gate_up, experts * 2 * inner, width);
  expect_weight(op, "down", call.down, experts * width, inner);
}

void check_call(const LayerNormCall& call) {
  expect_rank("layernorm", "x", call.x, 2);
  expect_float("layernorm", "x", call.x);
  expect("layernorm", "out", call.out, call.x.dtype, call.x.shape);
  const Shape row = {call.x.size(1)};
  expect_shape("layernorm", "weight", call.weight, row);
  ENGINE_REQUIRE(call.weight.dtype == call.x.dtype || call.weight.dtype == DType::kF32,
                 "layernorm: weight is ", call.weight.dtype, ", expected ", call.x.dtype,
                 " or f32");
  expect("layernorm", "bias", call.bias, call.weight.dtype, row);
}

void check_call(const GeluCall& call) {
  expect_rank("gelu", "x", call.x, 2);
  expect_float("gelu", "x", call.x);
  expect("gelu", "out", call.out, call.x.dtype, call.x.shape);
}

void check_call(const GatherGemvCall& call) {
  const char* op = "gather_gemv";
  expect_rank(op, "x", call.x, 1);
  expect_float(op, "x", call.x);
  ENGINE_REQUIRE(call.count > 0 && call.weight.rows % call.count == 0, op, ": ", call.weight.rows,
                 " rows of ", call.count, " matrices");
  expect_weight(op, "weight", call.weight, call.weight.rows, call.x.size(0));
  ENGINE_REQUIRE(
      call.weight.format == plain_format(call.x.dtype) || call.weight.format == QuantFormat::kInt8,
      op, ": weights of ", format_info(call.weight.format).name, " by x of ", call.x.dtype);
  expect_rank(op, "out", call.out, 2);
  const std::int64_t chosen = call.experts ? call.out.size(0) : call.count;
  if (call.experts) expect(op, "experts", call.experts, DType::kI32, {chosen});
  expect(op, "out", call.out, call.x.dtype, {chosen, call.weight.rows / call.count});
}

void check_call(const MlpLayerNormCall& call) {
  const char* op = "mlp_layer_norm";
  expect_rank(op, "x", call.x, 2);
  expect_float(op, "x", call.x);
  const std::int64_t inner = call.up.rows, width = call.down.rows;
  expect_weight(op, "up", call.up, inner, call.x.size(1));
  expect_weight(op, "down", call.down, width, inner);
  expect(op, "out", call.out, call.x.dtype, {call.x.size(0), width});
  expect(op, "up_bias", call.up_bias, call.x.dtype, {inner});
  expect(op, "down_bias", call.down_bias, call.x.dtype, {width});
  const DType norm = call.inner_weight.dtype;
  ENGINE_REQUIRE(norm == call.x.dtype || norm == DType::kF32, op, ": inner_weight is ", norm,
                 ", expected ", call.x.dtype, " or f32");
  expect(op, "inner_weight", call.inner_weight, norm, {inner});
  expect(op, "inner_bias", call.inner_bias, norm, {inner});
  expect(op, "outer_weight", call.outer_weight, norm, {width});
  expect(op, "outer_bias", call.outer_bias, norm, {width});
}

}  // namespace engine
