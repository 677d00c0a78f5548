// How stages of a step find each other's results: pure host functions, tested without a GPU.
#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

#include "kernels/cuda/step/connect.h"
#include "tests/kernels/step_operands.h"

namespace engine::cuda {
namespace {

constexpr std::int64_t kWidth = 256, kInner = 512, kHeads = 4, kKvHeads = 2, kHeadSize = 64;
constexpr auto kType = DType::kBF16;
constexpr auto kFormat = QuantFormat::kBF16;

// The operands of a LLaMA block's calls, with one x for all of a step.
struct Block {
  Operands o;
  Tensor x = o.tensor(kType, {1, kWidth});
  Tensor q = o.tensor(kType, {1, kHeads, kHeadSize});
  Tensor attended = o.tensor(kType, {1, kHeads, kHeadSize});
  Tensor flat = Tensor::contiguous(attended.data, kType, attended.device, {1, kHeads* kHeadSize});
  Tensor position = o.tensor(DType::kI32, {1});
  Tensor table = o.tensor(DType::kF32, {128, kHeadSize});
  Tensor k = o.tensor(kType, {kKvHeads, 128, kHeadSize});
  Tensor v = o.tensor(kType, {kKvHeads, 128, kHeadSize});
  Workspace scratch = o.workspace(1 << 20);

  EmbedCall embed() {
    return {.out = x, .table = o.weight(kFormat, 97, kWidth), .ids = o.tensor(DType::kI32, {1})};
  }
  AttentionInCall attention_in() {
    return {.q = q,
            .x = x,
            .norm = o.tensor(kType, {kWidth}),
            .qkv = o.weight(kFormat, (kHeads + 2 * kKvHeads) * kHeadSize, kWidth),
            .rope_table = table,
            .position = position,
            .k_cache = k,
            .v_cache = v};
  }
  AttentionCall attention() {
    return {.out = attended,
            .q = q,
            .k_cache = k,
            .v_cache = v,
            .position = position,
            .bound = 128,
            .lse = {}};
  }
  AttentionOutCall attention_out() {
    return {.x = x, .attention = flat, .output = o.weight(kFormat, kWidth, kHeads * kHeadSize)};
  }
  FeedForwardCall feed_forward() {
    return {.x = x,
            .norm = o.tensor(kType, {kWidth}),
            .gate_up = o.weight(kFormat, 2 * kInner, kWidth),
            .down = o.weight(kFormat, kWidth, kInner)};
  }
  MoeFeedForwardCall moe_feed_forward() {
    return {.x = x,
            .norm = o.tensor(kType, {kWidth}),
            .router = o.weight(kFormat, 8, kWidth),
            .gate_up = o.weight(kFormat, 8 * 2 * kInner, kWidth),
            .down = o.weight(kFormat, 8 * kWidth, kInner),
            .experts = 8,
            .top_k = 2};
  }
  LinearCall linear(Tensor out, Tensor in, Tensor residual = {}) {
    return {.out = out,
            .x = in,
            .weight = o.weight(kFormat, out.size(1), in.size(1)),
            .residual = residual};
  }
};

bool lower_block(Block& block, StepProgram* program) {
  return lower_call(kH200, block.attention_in(), program) &&
         lower_call(kH200, block.attention(), program) &&
         lower_call(kH200, block.attention_out(), program) &&
         lower_call(kH200, block.feed_forward(), block.scratch, program);
}

TEST_CASE("every stage of a step reads what the stage before left in the exchange") {
  Block block;
  StepProgram program;
  REQUIRE(lower_call(kH200, block.embed(), &program));
  REQUIRE(lower_block(block, &program));
  REQUIRE(lower_block(block, &program));
  const std::vector<StepStage>& stages = program.stages;
  REQUIRE(stages.size() == 11);
  for (std::size_t i = 1; i < stages.size(); ++i) {
    CAPTURE(i);
    CHECK(stages[i].x_exchange >= 0);
    CHECK(stages[i].x_exchange == stages[i - 1].exchange);
    CHECK(stages[i].x_exchange % 8 == 0);
  }
  CHECK(stages[0].x_exchange < 0);
  CHECK(stages.back().exchange < 0);  // nobody reads it here
  // Residuals: what x was before the block's halves.
  CHECK(stages[3].residual_exchange == stages[0].exchange);
  CHECK(stages[5].residual_exchange == stages[3].exchange);
  CHECK(stages[8].residual_exchange == stages[5].exchange);
}

TEST_CASE("only the last stage that computes a tensor stores it") {
  Block block;
  StepProgram program;
  REQUIRE(lower_call(kH200, block.embed(), &program));
  REQUIRE(lower_block(block, &program));
  REQUIRE(lower_block(block, &program));
  const std::vector<bool> expected = {false, false, false, false, false, false,
                                      true,  true,  false, true,  true};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    CHECK(program.stages[i].stores_out == expected[i]);
  }
}

TEST_CASE("results share no place in the exchange, and those of a step fit it") {
  Block block;
  StepProgram program;
  REQUIRE(lower_block(block, &program));
  REQUIRE(lower_block(block, &program));
  const std::int64_t rows[] = {(kHeads + 2 * kKvHeads) * kHeadSize, kHeads * kHeadSize, kWidth,
                               kInner, kWidth};
  std::int64_t end = 0;
  for (std::size_t i = 0; i + 1 < program.stages.size(); ++i) {
    CHECK(program.stages[i].exchange >= end);
    end = program.stages[i].exchange + rows[i % 5];
  }
  CHECK(program.exchange >= static_cast<std::size_t>(end));
}

TEST_CASE("an op by itself reads its operands from where they lie") {
  Block block;
  StepProgram program;
  REQUIRE(lower_call(kH200, block.attention(), &program));
  CHECK(program.stages[0].x_exchange < 0);
  CHECK(program.exchange == 0);
  StepProgram out;
  REQUIRE(lower_call(kH200, block.attention_out(), &out));
  CHECK(out.stages[0].x_exchange < 0);
  CHECK(out.stages[0].residual_exchange < 0);
  CHECK(out.stages[0].stores_out);
}

TEST_CASE("a mixture by itself reads a copy of x, which its last stage overwrites") {
  Block block;
  StepProgram program;
  REQUIRE(lower_call(kH200, block.moe_feed_forward(), block.scratch, &program));
  REQUIRE(program.stages.size() == 3);
  CHECK(program.stages[0].kind == StepKind::kNorm);
  CHECK(program.stages[0].norm == nullptr);
  CHECK(program.stages[1].x_exchange == program.stages[0].exchange);
  CHECK(program.stages[2].residual_exchange == program.stages[0].exchange);
  CHECK(program.stages[2].x_exchange == program.stages[1].exchange);
  // Behind a stage that computes x there is no copy.
  StepProgram behind;
  REQUIRE(lower_call(kH200, block.attention_out(), &behind));
  REQUIRE(lower_call(kH200, block.moe_feed_forward(), block.scratch, &behind));
  CHECK(behind.stages.size() == 3);
  CHECK(behind.stages[1].x_exchange == behind.stages[0].exchange);
}

TEST_CASE("a stage that would read a part of a result begins another program") {
  Block block;
  StepProgram program;
  const Tensor whole = block.o.tensor(kType, {1, 2 * kWidth});
  const Tensor part = Tensor::contiguous(whole.data, kType, whole.device, {1, kWidth});
  REQUIRE(lower_call(kH200, block.linear(whole, block.x), &program));
  CHECK_FALSE(lower_call(kH200, block.linear(block.o.tensor(kType, {1, kWidth}), part), &program));
  CHECK_FALSE(
      lower_call(kH200, block.linear(block.o.tensor(kType, {1, kWidth}), block.x, part), &program));
  CHECK(program.stages.size() == 1);
  CHECK(program.exchange == 0);
}

TEST_CASE("attention behind another step's keys, or another q, begins another program") {
  Block block;
  StepProgram program;
  REQUIRE(lower_call(kH200, block.attention_in(), &program));
  AttentionCall elsewhere = block.attention();
  elsewhere.v_cache = block.o.tensor(kType, {kKvHeads, 128, kHeadSize});
  CHECK_FALSE(lower_call(kH200, elsewhere, &program));
  elsewhere = block.attention();
  elsewhere.q = block.o.tensor(kType, {1, kHeads, kHeadSize});
  CHECK_FALSE(lower_call(kH200, elsewhere, &program));
  elsewhere = block.attention();
  elsewhere.position = block.o.tensor(DType::kI32, {1});
  CHECK_FALSE(lower_call(kH200, elsewhere, &program));
  CHECK(lower_call(kH200, block.attention(), &program));
}

TEST_CASE("nothing overwrites what a stage out of step may still have to read") {
  Block block;
  StepProgram program;
  const Tensor y = block.o.tensor(kType, {1, kWidth}), z = block.o.tensor(kType, {1, kWidth});
  REQUIRE(lower_call(kH200, block.linear(y, block.x), &program));  // reads x from where it lies
  SUBCASE("by a stage that does not wait for that one") {
    CHECK_FALSE(lower_call(kH200, block.linear(block.x, z), &program));
  }
  SUBCASE("by a stage that waits for it") {
    CHECK(lower_call(kH200, block.linear(block.x, y), &program));
  }
  SUBCASE("by a stage that waits for one that waits for it") {
    REQUIRE(lower_call(kH200, block.linear(z, y), &program));
    CHECK(lower_call(kH200, block.linear(block.x, z), &program));
  }
}

}  // namespace
}  // namespace engine::cuda
