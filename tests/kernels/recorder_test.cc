// The two Ops that execute nothing, and the dispatch of recorded calls.
#include "kernels/recorder.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "kernels/core/check.h"

namespace engine::test {
namespace {

// Notes the name of every op it is asked for.
class Spy final : public Ops {
 public:
  std::vector<std::string> asked;
  std::size_t attention_bytes = 0, linear_bytes = 0, moe_linear_bytes = 0;

  void embed(const EmbedCall&) override { asked.push_back("embed"); }
  void rmsnorm(const RmsNormCall&) override { asked.push_back("rmsnorm"); }
  void linear(const LinearCall&, Workspace scratch) override {
    asked.push_back("linear");
    linear_used = scratch.used();
  }
  void rope(const RopeCall&) override { asked.push_back("rope"); }
  void kv_append(const KvAppendCall&) override { asked.push_back("kv_append"); }
  void attention(const AttentionCall&, Workspace scratch) override {
    asked.push_back("attention");
    used = scratch.used();
  }
  void silu_mul(const SiluMulCall&) override { asked.push_back("silu_mul"); }
  void add(const AddCall&) override { asked.push_back("add"); }
  void layernorm(const LayerNormCall&) override { asked.push_back("layernorm"); }
  void gelu(const GeluCall&) override { asked.push_back("gelu"); }
  void gather_gemv(const GatherGemvCall&) override { asked.push_back("gather_gemv"); }
  void sample(const SampleCall&) override { asked.push_back("sample"); }
  void moe_route(const MoeRouteCall&) override { asked.push_back("moe_route"); }
  void moe_linear(const MoeLinearCall&, Workspace scratch) override {
    asked.push_back("moe_linear");
    moe_used = scratch.used();
  }
  void moe_combine(const MoeCombineCall&) override { asked.push_back("moe_combine"); }
  void batch_matmul(const BatchMatmulCall&) override { asked.push_back("batch_matmul"); }
  void score_softmax(const ScoreSoftmaxCall&) override { asked.push_back("score_softmax"); }
  void attention_batch(const AttentionBatchCall&, Workspace) override {
    asked.push_back("attention_batch");
  }
  void attention_backward(const AttentionGradCall&, Workspace) override {
    asked.push_back("attention_backward");
  }
  std::size_t attention_scratch_bytes(const AttentionCall&) const override {
    return attention_bytes;
  }
  std::size_t linear_scratch_bytes(const LinearCall&) const override { return linear_bytes; }
  std::size_t moe_linear_scratch_bytes(const MoeLinearCall&) const override {
    return moe_linear_bytes;
  }
  std::size_t attention_batch_scratch_bytes(const AttentionBatchCall&) const override {
    return attention_bytes;
  }
  std::size_t attention_backward_scratch_bytes(const AttentionGradCall&) const override {
    return attention_bytes;
  }

  std::size_t used = 0, linear_used = 0, moe_used = 0;
};

Tensor tensor(DType dtype, Shape shape) {
  return Tensor::contiguous(reinterpret_cast<void*>(4096), dtype, {}, shape);
}
Weight weight(std::int64_t rows, std::int64_t columns) {
  return {.data = reinterpret_cast<void*>(4096), .rows = rows, .columns = columns, .device = {}};
}
const Tensor kRows = tensor(DType::kF32, {3, 8});
const Tensor kHeads = tensor(DType::kF32, {3, 2, 4});
const Tensor kCache = tensor(DType::kF32, {2, 9, 4});
const Tensor kTable = tensor(DType::kF32, {9, 4});
const Tensor kNorm = tensor(DType::kF32, {8});
const Tensor kOne = tensor(DType::kI32, {1});

AttentionCall attention_call() {
  return {.out = kHeads,
          .q = kHeads,
          .k_cache = kCache,
          .v_cache = kCache,
          .position = kOne,
          .bound = 9,
          .lse = {}};
}
FeedForwardCall feed_forward_call() {
  return {.x = kRows, .norm = kNorm, .gate_up = weight(40, 8), .down = weight(8, 20)};
}
MoeLinearCall moe_linear_call() {
  return {.out = tensor(DType::kF32, {3, 2, 6}),
          .x = tensor(DType::kF32, {3, 1, 8}),
          .weight = weight(30, 8),
          .experts = tensor(DType::kI32, {3, 2}),
          .count = 5};
}
MoeFeedForwardCall moe_feed_forward_call() {
  return {.x = kRows,
          .norm = kNorm,
          .router = weight(5, 8),
          .gate_up = weight(200, 8),
          .down = weight(40, 20),
          .experts = 5,
          .top_k = 2};
}

// Every op once, in an order of its own.
void ask_for_everything(Ops& ops, Workspace scratch) {
  ops.sample({.logits = tensor(DType::kF32, {5}),
              .params = tensor(DType::kU8, {32}),
              .seen = tensor(DType::kU8, {5}),
              .position = kOne,
              .next_ids = kOne,
              .sampled = tensor(DType::kI32, {2})});
  ops.embed({kRows, weight(10, 8), tensor(DType::kI32, {3})});
  ops.rmsnorm({kRows, kRows, kNorm});
  ops.linear({kRows, kRows, weight(8, 8), {}}, scratch);
  ops.rope({kHeads, kHeads, kTable, kOne});
  ops.kv_append({kCache, kCache, kHeads, kHeads, kOne});
  ops.attention(attention_call(), scratch);
  ops.silu_mul({kRows, kRows, kRows});
  ops.add({kRows, kRows, kRows});
  ops.attention_in({.q = kHeads,
                    .x = kRows,
                    .norm = kNorm,
                    .qkv = weight(24, 8),
                    .rope_table = kTable,
                    .position = kOne,
                    .k_cache = kCache,
                    .v_cache = kCache},
                   scratch);
  ops.attention_out({kRows, kRows, weight(8, 8)}, scratch);
  ops.feed_forward(feed_forward_call(), scratch);
  ops.moe_combine({kRows, tensor(DType::kF32, {3, 2, 8}), tensor(DType::kF32, {3, 2}), kRows});
  ops.moe_route(
      {tensor(DType::kI32, {3, 2}), tensor(DType::kF32, {3, 2}), tensor(DType::kF32, {3, 5})});
  ops.moe_linear(moe_linear_call(), scratch);
  ops.moe_feed_forward(moe_feed_forward_call(), scratch);
}

TEST_CASE("Recorder keeps every call in order and run_call gives each to its op") {
  Spy spy;
  Recorder recorder(spy);
  std::size_t peak = 0;
  Workspace scratch = Workspace::dry_run({}, &peak);
  scratch.take(DType::kU8, {1});
  ask_for_everything(recorder, scratch);
  CHECK(spy.asked.empty());
  const std::vector<RecordedCall> calls = recorder.take();
  CHECK(calls.size() == 16);
  CHECK(recorder.take().empty());
  for (const RecordedCall& recorded : calls) run_call(spy, recorded.call, recorded.scratch);
  const std::vector<std::string> expected = {
      "sample", "embed", "rmsnorm", "linear", "rope", "kv_append", "attention", "silu_mul", "add",
      // the default bodies, as ops.h defines the fused ops
      "rmsnorm", "linear", "rope", "rope", "kv_append",  //
      "linear",                                          //
      "rmsnorm", "linear", "silu_mul", "linear",         //
      "moe_combine", "moe_route", "moe_linear",          //
      "rmsnorm", "linear", "moe_route", "moe_linear", "silu_mul", "moe_linear", "moe_combine"};
  CHECK(spy.asked == expected);
  CHECK(spy.used == Workspace::kAlignment);        // the caller's scope came back with its call
  CHECK(spy.linear_used > Workspace::kAlignment);  // the last is a mixture's router
}

TEST_CASE("Recorder checks operands as they come and asks the backend for scratch") {
  Spy spy;
  spy.attention_bytes = 77;
  spy.moe_linear_bytes = 78;
  spy.linear_bytes = 79;
  Recorder recorder(spy);
  CHECK_THROWS_AS(recorder.add({kRows, kRows, kHeads}), Error);
  CHECK(recorder.take().empty());
  CHECK(recorder.attention_scratch_bytes(attention_call()) == 77);
  CHECK(recorder.moe_linear_scratch_bytes(moe_linear_call()) == 78);
  CHECK(recorder.linear_scratch_bytes({kRows, kRows, weight(8, 8), {}}) == 79);
}

TEST_CASE("DryRun measures the scratch of attention and of the default bodies") {
  Spy spy;
  DryRun dry_run(spy);
  const auto peak_of = [&](const auto& step) {
    std::size_t peak = 0;
    step(Workspace::dry_run({}, &peak));
    return peak;
  };
  const auto attention = [&](Workspace scratch) { dry_run.attention(attention_call(), scratch); };
  CHECK(peak_of(attention) == 0);
  spy.attention_bytes = 1000;
  CHECK(peak_of(attention) == 1024);
  // h (3, 8) and gate|up (3, 40) in f32: 96 and 480 bytes, each rounded up to 256.
  CHECK(peak_of([&](Workspace ws) { dry_run.feed_forward(feed_forward_call(), ws); }) == 768);
  // A linear takes more on top: that of the larger of two, since the first one's is free again.
  spy.linear_bytes = 500;
  CHECK(peak_of([&](Workspace ws) { dry_run.feed_forward(feed_forward_call(), ws); }) == 1280);
  spy.linear_bytes = 0;
  const auto linear = [&](Workspace scratch) { dry_run.moe_linear(moe_linear_call(), scratch); };
  const auto mixture = [&](Workspace scratch) {
    dry_run.moe_feed_forward(moe_feed_forward_call(), scratch);
  };
  CHECK(peak_of(linear) == 0);
  // In f32: h (3, 8), logits (3, 5), experts and weights (3, 2), gate|up (3, 2, 40), their product
  // (3, 2, 20) and the outputs (3, 2, 8): 256 each but for 1024 and 512; then the op's own.
  CHECK(peak_of(mixture) == 2816);
  spy.moe_linear_bytes = 300;
  CHECK(peak_of(linear) == 512);
  CHECK(peak_of(mixture) == 2816 + 512);
  spy.moe_linear_bytes = 0;
  // All together: the largest, since scopes end with their call.
  CHECK(peak_of([&](Workspace ws) { ask_for_everything(dry_run, ws); }) == 2816);
  spy.attention_bytes = 3000;
  CHECK(peak_of([&](Workspace ws) { ask_for_everything(dry_run, ws); }) == 3072);
  CHECK(spy.asked.empty());
  CHECK_THROWS_AS(dry_run.add({kRows, kRows, kHeads}), Error);
}

}  // namespace
}  // namespace engine::test
