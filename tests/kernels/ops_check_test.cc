// The operand checks: every rule of the shape and type comments in ops.h, broken one at a time.
#include <doctest/doctest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/ops.h"

namespace engine::test {
namespace {

// Operands are only looked at, never read.
Tensor tensor(DType dtype, Shape shape) {
  return Tensor::contiguous(reinterpret_cast<void*>(4096), dtype, {}, shape);
}
Tensor activations(Shape shape) { return tensor(DType::kBF16, shape); }
Weight weight(std::int64_t rows, std::int64_t columns) {
  return {.data = reinterpret_cast<void*>(4096),
          .format = QuantFormat::kBF16,
          .rows = rows,
          .columns = columns,
          .device = {}};
}

EmbedCall embed_call() { return {activations({3, 8}), weight(10, 8), tensor(DType::kI32, {3})}; }
RmsNormCall rmsnorm_call() { return {activations({3, 8}), activations({3, 8}), activations({8})}; }
LinearCall linear_call() {
  return {activations({3, 6}), activations({3, 8}), weight(6, 8), activations({3, 6})};
}
RopeCall rope_call() {
  return {activations({3, 2, 8}), activations({3, 2, 8}), tensor(DType::kF32, {20, 8}),
          tensor(DType::kI32, {1})};
}
KvAppendCall kv_append_call() {
  return {activations({2, 20, 8}), activations({2, 20, 8}), activations({3, 2, 8}),
          activations({3, 2, 8}), tensor(DType::kI32, {1})};
}
AttentionCall attention_call() {
  return {.out = activations({3, 4, 8}),
          .q = activations({3, 4, 8}),
          .k_cache = activations({2, 20, 8}),
          .v_cache = activations({2, 20, 8}),
          .position = tensor(DType::kI32, {1}),
          .bound = 12,
          .lse = tensor(DType::kF32, {4, 3})};
}
SiluMulCall silu_mul_call() {
  return {activations({3, 8}), activations({3, 8}), activations({3, 8})};
}
AddCall add_call() { return {activations({3, 8}), activations({3, 8}), activations({3, 8})}; }
SampleCall sample_call() {
  return {.logits = tensor(DType::kF32, {50}),
          .params = tensor(DType::kU8, {32}),
          .seen = tensor(DType::kU8, {50}),
          .position = tensor(DType::kI32, {1}),
          .next_ids = tensor(DType::kI32, {4}),
          .sampled = tensor(DType::kI32, {2})};
}
AttentionInCall attention_in_call() {
  return {.q = activations({3, 4, 8}),
          .x = activations({3, 16}),
          .norm = activations({16}),
          .qkv = weight(64, 16),
          .rope_table = tensor(DType::kF32, {20, 8}),
          .position = tensor(DType::kI32, {1}),
          .k_cache = activations({2, 20, 8}),
          .v_cache = activations({2, 20, 8})};
}
AttentionOutCall attention_out_call() {
  return {activations({3, 16}), activations({3, 32}), weight(16, 32)};
}
FeedForwardCall feed_forward_call() {
  return {.x = activations({3, 16}),
          .norm = activations({16}),
          .gate_up = weight(40, 16),
          .down = weight(16, 20)};
}
MoeRouteCall moe_route_call() {
  return {tensor(DType::kI32, {3, 2}), tensor(DType::kF32, {3, 2}), tensor(DType::kF32, {3, 5})};
}
MoeLinearCall moe_linear_call() {
  return {activations({3, 2, 6}), activations({3, 2, 8}), weight(30, 8),
          tensor(DType::kI32, {3, 2}), 5};
}
MoeCombineCall moe_combine_call() {
  return {activations({3, 8}), activations({3, 2, 8}), tensor(DType::kF32, {3, 2}),
          activations({3, 8})};
}
MoeFeedForwardCall moe_feed_forward_call() {
  return {.x = activations({3, 16}),
          .norm = activations({16}),
          .router = weight(5, 16),
          .gate_up = weight(200, 16),
          .down = weight(80, 20),
          .experts = 5,
          .top_k = 2};
}

// `broken` must be refused as an internal error whose message begins with the op's name.
template <typename Call>
void expect_refused(const Call& broken, const std::string& op, const std::string& what) {
  CAPTURE(what);
  try {
    check_call(broken);
    FAIL_CHECK("accepted");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kInternal);
    CHECK(std::string(error.what()).starts_with(op + ": "));
  }
}

// Breaks one tensor operand in every way that is always wrong.
template <typename Call>
void break_tensor(const std::string& op, Call (*make)(), Tensor Call::*operand,
                  const std::string& name, bool optional = false) {
  const auto with = [&](const std::string& how, const std::function<void(Tensor&)>& change) {
    Call call = make();
    change(call.*operand);
    expect_refused(call, op, op + "." + name + ": " + how);
  };
  if (!optional) with("absent", [](Tensor& t) { t = {}; });
  with("wrong type", [](Tensor& t) { t.dtype = t.dtype == DType::kU8 ? DType::kI32 : DType::kU8; });
  with("wrong rank", [](Tensor& t) {
    t = Tensor::contiguous(t.data, t.dtype, t.device, t.rank() == 2 ? Shape{1, 1, 1} : Shape{1, 1});
  });
  Call intact = make();
  const Tensor& t = intact.*operand;
  if (t.size(t.rank() - 1) > 1) {
    with("rows not dense",
         [](Tensor& broken) { broken.strides[static_cast<std::size_t>(broken.rank() - 1)] = 2; });
  }
}

// Breaks extent `axis` of an operand.
template <typename Call>
void break_extent(const std::string& op, Call (*make)(), Tensor Call::*operand, int axis,
                  const std::string& name) {
  Call call = make();
  (call.*operand).shape[axis] += 1;
  expect_refused(call, op, op + "." + name + ": extent " + std::to_string(axis));
}

template <typename Call>
void break_weight(const std::string& op, Call (*make)(), Weight Call::*operand, bool rows_free,
                  const std::string& name) {
  Call absent = make(), tall = make(), wide = make();
  (absent.*operand).data = nullptr;
  (tall.*operand).rows += 1;
  (wide.*operand).columns += 1;
  expect_refused(absent, op, op + "." + name + ": absent");
  if (!rows_free) expect_refused(tall, op, op + "." + name + ": rows");
  expect_refused(wide, op, op + "." + name + ": columns");
}

TEST_CASE("check_call takes every well-formed call") {
  check_call(embed_call());
  check_call(rmsnorm_call());
  check_call(linear_call());
  check_call(rope_call());
  check_call(kv_append_call());
  check_call(attention_call());
  check_call(silu_mul_call());
  check_call(add_call());
  check_call(sample_call());
  check_call(attention_in_call());
  check_call(attention_out_call());
  check_call(feed_forward_call());
  check_call(moe_route_call());
  check_call(moe_linear_call());
  check_call(moe_combine_call());
  check_call(moe_feed_forward_call());
}

TEST_CASE("check_call takes what is optional or free") {
  LinearCall linear = linear_call();
  linear.residual = {};
  check_call(linear);
  linear.out = tensor(DType::kF32, {3, 6});
  check_call(linear);
  AttentionCall attention = attention_call();
  attention.lse = {};
  attention.bound = 20;
  check_call(attention);
  attention.bound = 3;
  check_call(attention);
  MoeLinearCall shared = moe_linear_call();
  shared.x = activations({3, 1, 8});
  check_call(shared);
  MoeRouteCall all = moe_route_call();
  all.experts = tensor(DType::kI32, {3, 5});
  all.weights = tensor(DType::kF32, {3, 5});
  check_call(all);
  RmsNormCall rmsnorm = rmsnorm_call();
  rmsnorm.x.strides[0] = 100;
  rmsnorm.out.strides[0] = 9;
  check_call(rmsnorm);
}

TEST_CASE("check_call refuses broken operands of embed, rmsnorm, add and silu_mul") {
  break_tensor("embed", embed_call, &EmbedCall::out, "out");
  break_tensor("embed", embed_call, &EmbedCall::ids, "ids");
  break_extent("embed", embed_call, &EmbedCall::ids, 0, "ids");
  break_weight("embed", embed_call, &EmbedCall::table, true, "table");
  EmbedCall quantised = embed_call();
  quantised.table.format = QuantFormat::kInt8;
  expect_refused(quantised, "embed", "an int8 table");
  break_tensor("rmsnorm", rmsnorm_call, &RmsNormCall::out, "out");
  break_tensor("rmsnorm", rmsnorm_call, &RmsNormCall::x, "x");
  break_tensor("rmsnorm", rmsnorm_call, &RmsNormCall::weight, "weight");
  break_extent("rmsnorm", rmsnorm_call, &RmsNormCall::out, 0, "out");
  break_extent("rmsnorm", rmsnorm_call, &RmsNormCall::weight, 0, "weight");
  break_tensor("add", add_call, &AddCall::out, "out");
  break_tensor("add", add_call, &AddCall::a, "a");
  break_tensor("add", add_call, &AddCall::b, "b");
  break_extent("add", add_call, &AddCall::out, 1, "out");
  break_extent("add", add_call, &AddCall::b, 0, "b");
  break_tensor("silu_mul", silu_mul_call, &SiluMulCall::out, "out");
  break_tensor("silu_mul", silu_mul_call, &SiluMulCall::gate, "gate");
  break_tensor("silu_mul", silu_mul_call, &SiluMulCall::up, "up");
  break_extent("silu_mul", silu_mul_call, &SiluMulCall::up, 1, "up");
}

TEST_CASE("check_call refuses broken operands of linear") {
  break_tensor("linear", linear_call, &LinearCall::out, "out");
  break_tensor("linear", linear_call, &LinearCall::x, "x");
  break_tensor("linear", linear_call, &LinearCall::residual, "residual", true);
  break_extent("linear", linear_call, &LinearCall::out, 1, "out");
  break_extent("linear", linear_call, &LinearCall::x, 1, "x");
  break_extent("linear", linear_call, &LinearCall::residual, 0, "residual");
  break_weight("linear", linear_call, &LinearCall::weight, false, "weight");
  LinearCall other = linear_call();
  other.out.dtype = other.residual.dtype = DType::kF16;
  expect_refused(other, "linear", "a third type");
  LinearCall mixed = linear_call();
  mixed.out = tensor(DType::kF32, {3, 6});
  expect_refused(mixed, "linear", "a residual of another type than out");
}

TEST_CASE("check_call refuses broken operands of rope and kv_append") {
  break_tensor("rope", rope_call, &RopeCall::out, "out");
  break_tensor("rope", rope_call, &RopeCall::x, "x");
  break_tensor("rope", rope_call, &RopeCall::table, "table");
  break_tensor("rope", rope_call, &RopeCall::position, "position");
  break_extent("rope", rope_call, &RopeCall::table, 1, "table");
  break_extent("rope", rope_call, &RopeCall::position, 0, "position");
  RopeCall odd = rope_call();
  odd.x = odd.out = activations({3, 2, 7});
  odd.table = tensor(DType::kF32, {20, 7});
  expect_refused(odd, "rope", "an odd head size");
  RopeCall empty = rope_call();
  empty.table = tensor(DType::kF32, {0, 8});
  expect_refused(empty, "rope", "an empty table");
  break_tensor("kv_append", kv_append_call, &KvAppendCall::k_cache, "k_cache");
  break_tensor("kv_append", kv_append_call, &KvAppendCall::v_cache, "v_cache");
  break_tensor("kv_append", kv_append_call, &KvAppendCall::k, "k");
  break_tensor("kv_append", kv_append_call, &KvAppendCall::v, "v");
  break_tensor("kv_append", kv_append_call, &KvAppendCall::position, "position");
  break_extent("kv_append", kv_append_call, &KvAppendCall::k_cache, 0, "k_cache");
  break_extent("kv_append", kv_append_call, &KvAppendCall::v_cache, 1, "v_cache");
  break_extent("kv_append", kv_append_call, &KvAppendCall::v, 2, "v");
}

TEST_CASE("check_call refuses broken operands of attention") {
  break_tensor("attention", attention_call, &AttentionCall::out, "out");
  break_tensor("attention", attention_call, &AttentionCall::q, "q");
  break_tensor("attention", attention_call, &AttentionCall::k_cache, "k_cache");
  break_tensor("attention", attention_call, &AttentionCall::v_cache, "v_cache");
  break_tensor("attention", attention_call, &AttentionCall::position, "position");
  break_tensor("attention", attention_call, &AttentionCall::lse, "lse", true);
  break_extent("attention", attention_call, &AttentionCall::q, 0, "q");
  break_extent("attention", attention_call, &AttentionCall::k_cache, 2, "k_cache");
  break_extent("attention", attention_call, &AttentionCall::v_cache, 1, "v_cache");
  break_extent("attention", attention_call, &AttentionCall::lse, 1, "lse");
  for (const std::int64_t bound : {-1, 0, 2, 21}) {
    AttentionCall call = attention_call();
    call.bound = bound;
    expect_refused(call, "attention", concat("bound ", bound));
  }
  AttentionCall window = attention_call();
  window.window = -1;
  expect_refused(window, "attention", "a negative window");
  AttentionCall uneven = attention_call();
  uneven.k_cache = uneven.v_cache = activations({3, 20, 8});
  expect_refused(uneven, "attention", "4 heads over 3");
}

TEST_CASE("check_call refuses broken operands of sample") {
  break_tensor("sample", sample_call, &SampleCall::logits, "logits");
  break_tensor("sample", sample_call, &SampleCall::params, "params");
  break_tensor("sample", sample_call, &SampleCall::seen, "seen");
  break_tensor("sample", sample_call, &SampleCall::position, "position");
  break_tensor("sample", sample_call, &SampleCall::next_ids, "next_ids");
  break_tensor("sample", sample_call, &SampleCall::sampled, "sampled");
  break_extent("sample", sample_call, &SampleCall::seen, 0, "seen");
  break_extent("sample", sample_call, &SampleCall::params, 0, "params");
  break_extent("sample", sample_call, &SampleCall::sampled, 0, "sampled");
  SampleCall none = sample_call();
  none.next_ids = tensor(DType::kI32, {0});
  expect_refused(none, "sample", "an empty next_ids");
  SampleCall empty = sample_call();
  empty.logits = tensor(DType::kF32, {0});
  empty.seen = tensor(DType::kU8, {0});
  expect_refused(empty, "sample", "an empty vocabulary");
  SampleCall back = sample_call();
  back.advance = -1;
  expect_refused(back, "sample", "a negative advance");
}

TEST_CASE("check_call refuses broken operands of the fused ops") {
  break_tensor("attention_in", attention_in_call, &AttentionInCall::q, "q");
  break_tensor("attention_in", attention_in_call, &AttentionInCall::x, "x");
  break_tensor("attention_in", attention_in_call, &AttentionInCall::norm, "norm");
  break_tensor("attention_in", attention_in_call, &AttentionInCall::rope_table, "rope_table");
  break_tensor("attention_in", attention_in_call, &AttentionInCall::position, "position");
  break_tensor("attention_in", attention_in_call, &AttentionInCall::k_cache, "k_cache");
  break_tensor("attention_in", attention_in_call, &AttentionInCall::v_cache, "v_cache");
  break_extent("attention_in", attention_in_call, &AttentionInCall::q, 1, "q");
  break_extent("attention_in", attention_in_call, &AttentionInCall::k_cache, 0, "k_cache");
  break_weight("attention_in", attention_in_call, &AttentionInCall::qkv, false, "qkv");
  break_tensor("attention_out", attention_out_call, &AttentionOutCall::x, "x");
  break_tensor("attention_out", attention_out_call, &AttentionOutCall::attention, "attention");
  break_extent("attention_out", attention_out_call, &AttentionOutCall::x, 0, "x");
  break_weight("attention_out", attention_out_call, &AttentionOutCall::output, false, "output");
  break_tensor("feed_forward", feed_forward_call, &FeedForwardCall::x, "x");
  break_tensor("feed_forward", feed_forward_call, &FeedForwardCall::norm, "norm");
  break_extent("feed_forward", feed_forward_call, &FeedForwardCall::norm, 0, "norm");
  break_weight("feed_forward", feed_forward_call, &FeedForwardCall::gate_up, false, "gate_up");
  break_weight("feed_forward", feed_forward_call, &FeedForwardCall::down, false, "down");
}

TEST_CASE("check_call refuses broken operands of moe_route and moe_combine") {
  break_tensor("moe_route", moe_route_call, &MoeRouteCall::experts, "experts");
  break_tensor("moe_route", moe_route_call, &MoeRouteCall::weights, "weights");
  break_tensor("moe_route", moe_route_call, &MoeRouteCall::logits, "logits");
  break_extent("moe_route", moe_route_call, &MoeRouteCall::experts, 0, "experts");
  break_extent("moe_route", moe_route_call, &MoeRouteCall::weights, 1, "weights");
  break_extent("moe_route", moe_route_call, &MoeRouteCall::logits, 0, "logits");
  for (const std::int64_t top_k : {0, 6}) {
    MoeRouteCall call = moe_route_call();
    call.experts = tensor(DType::kI32, {3, top_k});
    call.weights = tensor(DType::kF32, {3, top_k});
    expect_refused(call, "moe_route", concat(top_k, " of 5 experts"));
  }
  break_tensor("moe_combine", moe_combine_call, &MoeCombineCall::out, "out");
  break_tensor("moe_combine", moe_combine_call, &MoeCombineCall::y, "y");
  break_tensor("moe_combine", moe_combine_call, &MoeCombineCall::weights, "weights");
  break_tensor("moe_combine", moe_combine_call, &MoeCombineCall::residual, "residual");
  break_extent("moe_combine", moe_combine_call, &MoeCombineCall::out, 0, "out");
  break_extent("moe_combine", moe_combine_call, &MoeCombineCall::y, 2, "y");
  break_extent("moe_combine", moe_combine_call, &MoeCombineCall::weights, 1, "weights");
  break_extent("moe_combine", moe_combine_call, &MoeCombineCall::residual, 1, "residual");
}

TEST_CASE("check_call refuses broken operands of moe_linear and moe_feed_forward") {
  break_tensor("moe_linear", moe_linear_call, &MoeLinearCall::out, "out");
  break_tensor("moe_linear", moe_linear_call, &MoeLinearCall::x, "x");
  break_tensor("moe_linear", moe_linear_call, &MoeLinearCall::experts, "experts");
  break_extent("moe_linear", moe_linear_call, &MoeLinearCall::out, 2, "out");
  break_extent("moe_linear", moe_linear_call, &MoeLinearCall::x, 1, "x");
  break_extent("moe_linear", moe_linear_call, &MoeLinearCall::x, 2, "x");
  break_extent("moe_linear", moe_linear_call, &MoeLinearCall::experts, 0, "experts");
  break_weight("moe_linear", moe_linear_call, &MoeLinearCall::weight, false, "weight");
  for (const std::int64_t count : {-1, 0, 4, 6}) {
    MoeLinearCall call = moe_linear_call();
    call.count = count;
    expect_refused(call, "moe_linear", concat(count, " experts"));
  }
  const char* op = "moe_feed_forward";
  break_tensor(op, moe_feed_forward_call, &MoeFeedForwardCall::x, "x");
  break_tensor(op, moe_feed_forward_call, &MoeFeedForwardCall::norm, "norm");
  break_extent(op, moe_feed_forward_call, &MoeFeedForwardCall::norm, 0, "norm");
  break_weight(op, moe_feed_forward_call, &MoeFeedForwardCall::router, false, "router");
  break_weight(op, moe_feed_forward_call, &MoeFeedForwardCall::gate_up, false, "gate_up");
  break_weight(op, moe_feed_forward_call, &MoeFeedForwardCall::down, false, "down");
  for (const std::int64_t top_k : {-1, 0, 6}) {
    MoeFeedForwardCall call = moe_feed_forward_call();
    call.top_k = top_k;
    expect_refused(call, op, concat(top_k, " of 5 experts"));
  }
  MoeFeedForwardCall none = moe_feed_forward_call();
  none.experts = 0;
  expect_refused(none, op, "no experts");
}

}  // namespace
}  // namespace engine::test
