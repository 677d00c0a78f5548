// How ops of one token become stages of the step kernel: pure host functions, tested without a GPU.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "kernels/cuda/step/lower.h"
#include "tests/kernels/step_operands.h"

namespace engine::cuda {
namespace {

LinearCall linear(Operands& o, std::int64_t tokens, std::int64_t rows, std::int64_t columns,
                  DType dtype, QuantFormat format) {
  return {.out = o.tensor(dtype, {tokens, rows}),
          .x = o.tensor(dtype, {tokens, columns}),
          .weight = o.weight(format, rows, columns),
          .residual = {}};
}

bool lowers(const CudaArch& arch, const LinearCall& call) {
  StepProgram program;
  const bool served = lower_call(arch, call, &program);
  CHECK(program.stages.size() == (served ? 1 : 0));
  return served;
}

TEST_CASE("the step kernel serves one token of 16 bits on Hopper") {
  Operands o;
  const auto bf16 = QuantFormat::kBF16;
  CHECK(lowers(kH200, linear(o, 1, 4096, 4096, DType::kBF16, bf16)));
  CHECK(lowers(kH200, linear(o, 1, 4096, 4096, DType::kF16, QuantFormat::kF16)));
  CHECK(lowers(kH200, linear(o, 1, 4096, 4096, DType::kBF16, QuantFormat::kInt8)));
  CHECK(lowers(kH200, linear(o, 1, 1, 8, DType::kBF16, bf16)));
  CHECK_FALSE(lowers(kH200, linear(o, 2, 4096, 4096, DType::kBF16, bf16)));
  CHECK_FALSE(lowers(kH200, linear(o, 1, 4096, 4096, DType::kF32, QuantFormat::kF32)));
  CHECK_FALSE(lowers(kH200, linear(o, 1, 4096, 4096, DType::kBF16, QuantFormat::kF16)));
  CHECK_FALSE(lowers(kA100, linear(o, 1, 4096, 4096, DType::kBF16, bf16)));
  CudaArch portable = kH200;
  portable.path = CudaPath::kPortable;
  CHECK_FALSE(lowers(portable, linear(o, 1, 4096, 4096, DType::kBF16, bf16)));
}

TEST_CASE("rows that are not 16-byte pieces, and operands too wide to share, are left to others") {
  Operands o;
  CHECK_FALSE(lowers(kH200, linear(o, 1, 64, 172, DType::kBF16, QuantFormat::kBF16)));
  CHECK_FALSE(lowers(kH200, linear(o, 1, 64, 72, DType::kBF16, QuantFormat::kInt8)));
  CHECK(lowers(kH200, linear(o, 1, 64, 72, DType::kBF16, QuantFormat::kBF16)));
  LinearCall off = linear(o, 1, 64, 64, DType::kBF16, QuantFormat::kBF16);
  off.weight = o.weight(QuantFormat::kBF16, 64, 64, 8);
  CHECK_FALSE(lowers(kH200, off));
  CHECK(lowers(kH200, linear(o, 1, 64, 28672, DType::kBF16, QuantFormat::kInt8)));
  CHECK_FALSE(lowers(kH200, linear(o, 1, 64, 131072, DType::kBF16, QuantFormat::kBF16)));
}

TEST_CASE("a norm joins the product behind it, and no other") {
  Operands o;
  const LinearCall product = linear(o, 1, 64, 64, DType::kBF16, QuantFormat::kBF16);
  const LinearCall other = linear(o, 1, 64, 64, DType::kBF16, QuantFormat::kBF16);
  const RmsNormCall norm{.out = product.x,
                         .x = o.tensor(DType::kBF16, {1, 64}),
                         .weight = o.tensor(DType::kBF16, {64})};
  StepProgram program;
  REQUIRE(lower_call(kH200, norm, &program));
  REQUIRE(lower_call(kH200, product, &program));
  REQUIRE(program.stages.size() == 1);
  CHECK(program.stages[0].x == norm.x.data);
  CHECK(program.stages[0].norm == norm.weight.data);
  CHECK(program.stages[0].normed == product.x.data);
  REQUIRE(lower_call(kH200, norm, &program));
  REQUIRE(lower_call(kH200, other, &program));
  CHECK(program.stages.size() == 3);
}

TEST_CASE("tiles are dealt out round robin, on from where the stage before stopped") {
  Operands o;
  StepProgram program;
  std::vector<int> count(static_cast<std::size_t>(kH200.sms), 0);
  for (const std::int64_t rows : {4096, 22016, 48, 32000, 16}) {
    REQUIRE(lower_call(kH200, linear(o, 1, rows, 64, DType::kBF16, QuantFormat::kBF16), &program));
  }
  for (const StepStage& stage : program.stages) {
    std::vector<int> seen(static_cast<std::size_t>(stage.tiles), 0);
    for (int block = 0; block < program.blocks; ++block) {
      for (int t = step_first_tile(block, program.blocks, stage.rotation); t < stage.tiles;
           t += program.blocks) {
        ++seen[static_cast<std::size_t>(t)];
        ++count[static_cast<std::size_t>(block)];
      }
    }
    CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
  }
  const auto [least, most] = std::minmax_element(count.begin(), count.end());
  CHECK(*most - *least <= 1);
}

TEST_CASE("blocks with an item of attention have one tile of the product behind it") {
  Operands o;
  StepProgram program;
  const auto bf16 = DType::kBF16;
  const Tensor attended = o.tensor(bf16, {1, 32, 128});
  REQUIRE(lower_call(kH200,
                     AttentionCall{.out = attended,
                                   .q = o.tensor(bf16, {1, 32, 128}),
                                   .k_cache = o.tensor(bf16, {32, 512, 128}),
                                   .v_cache = o.tensor(bf16, {32, 512, 128}),
                                   .position = o.tensor(DType::kI32, {1}),
                                   .scale = 0.1f,
                                   .lse = {}},
                     &program));
  const auto append = [&](QuantFormat format, std::int64_t rows) {
    StepProgram joined = program;
    LinearCall call = linear(o, 1, rows, 4096, bf16, format);
    call.x.data = attended.data;
    REQUIRE(lower_call(kH200, call, &joined));
    return joined.stages.back();
  };
  for (const std::int64_t rows : {2112, 4096, 8192}) {
    const StepStage stage = append(QuantFormat::kInt8, rows);
    std::vector<int> seen(static_cast<std::size_t>(stage.tiles), 0);
    for (int block = 0; block < kH200.sms; ++block) {
      const int first = step_first_tile(block, kH200.sms, stage.rotation);
      int own = 0;
      for (int t = first; t < stage.tiles; t += step_stride(stage, first, kH200.sms), ++own) {
        ++seen[static_cast<std::size_t>(t)];
      }
      CHECK((first < 32 ? own == 1 : own >= 1));
    }
    CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
  }
  CHECK(append(QuantFormat::kInt8, 1024).heads == 0);  // not a tile for every block
  CHECK(append(QuantFormat::kBF16, 4096).heads == 0);
}

TEST_CASE("quotients by a reciprocal are exact") {
  for (const int divisor : {1, 2, 3, 7, 32, 43, 64, 128, 14336}) {
    const float per = 1.0f / static_cast<float>(divisor);
    for (int n = 0; n < kStepMaxDivided; n += n < 100000 ? 1 : 997) {
      REQUIRE(step_quotient(n, per) == n / divisor);
      const int last = n / divisor * divisor + divisor - 1;  // of those with this quotient
      if (last < kStepMaxDivided) REQUIRE(step_quotient(last, per) == n / divisor);
    }
  }
}

TEST_CASE("products begin before x is there, but not beside a mixture") {
  Operands o;
  StepProgram program;
  const LinearCall product = linear(o, 1, 64, 64, DType::kBF16, QuantFormat::kBF16);
  const MoeFeedForwardCall mixture{.x = product.out,
                                   .norm = o.tensor(DType::kBF16, {64}),
                                   .router = o.weight(QuantFormat::kBF16, 4, 64),
                                   .gate_up = o.weight(QuantFormat::kBF16, 4 * 2 * 32, 64),
                                   .down = o.weight(QuantFormat::kBF16, 4 * 64, 32),
                                   .experts = 4,
                                   .top_k = 2};
  const auto early = [&] {
    return std::count_if(program.stages.begin(), program.stages.end(),
                         [](const StepStage& stage) { return stage.begins_early; });
  };
  REQUIRE(lower_call(kH200, product, &program));
  CHECK(early() == 1);
  REQUIRE(lower_call(kH200, mixture, o.workspace(1024), &program));
  CHECK(early() == 0);
  REQUIRE(lower_call(kH200, linear(o, 1, 64, 64, DType::kBF16, QuantFormat::kBF16), &program));
  CHECK(early() == 0);
}

TEST_CASE("a router of few experts is held in registers, others go through the ring") {
  const auto holds = [](std::int64_t experts, std::int64_t width) {
    Operands o;
    StepProgram program;
    const MoeFeedForwardCall mixture{.x = o.tensor(DType::kBF16, {1, width}),
                                     .norm = o.tensor(DType::kBF16, {width}),
                                     .router = o.weight(QuantFormat::kBF16, experts, width),
                                     .gate_up = o.weight(QuantFormat::kBF16, experts * 64, width),
                                     .down = o.weight(QuantFormat::kBF16, experts * width, 32),
                                     .experts = experts,
                                     .top_k = 2};
    REQUIRE(lower_call(kH200, mixture, o.workspace(1024), &program));
    return std::any_of(program.stages.begin(), program.stages.end(),
                       [](const StepStage& stage) { return stage.holds_router; });
  };
  CHECK(holds(2, 8));
  CHECK(holds(kStepHeldExperts, 8 * kStepConsumers));
  CHECK_FALSE(holds(kStepHeldExperts + 1, 64));
  CHECK_FALSE(holds(kStepHeldExperts, 8 * kStepConsumers + 8));
}

TEST_CASE("the ring keeps as many slots as it needs, and what it leaves fits the block") {
  for (const std::size_t x_bytes : {std::size_t{0}, std::size_t{9000}, std::size_t{90'000}}) {
    const int slots = step_slots(kH200, x_bytes, kStepStaticBytes);
    CHECK(slots >= kStepMinSlots);
    CHECK(slots <= kStepMaxSlots);
    CHECK(static_cast<std::size_t>(slots) * kStepSlotBytes + x_bytes + kStepStaticBytes <=
          kH200.shared_bytes);
  }
  CHECK(step_slots(kH200, kH200.shared_bytes, kStepStaticBytes) == 0);
}

TEST_CASE("attention's splits cover every key once") {
  for (const auto& [heads, kv_heads] : {std::pair{32, 32}, {32, 8}, {6, 2}, {8, 1}, {64, 8}}) {
    for (const int keys : {1, 2, 63, 64, 65, 206, 255, 256, 257, 512, 513, 4096, 100'001}) {
      const StepSplit split = step_split(keys, heads / kv_heads, kv_heads, kH200.sms);
      CAPTURE(heads);
      CAPTURE(kv_heads);
      CAPTURE(keys);
      CHECK(split.units * split.head_tile >= heads);
      CHECK(split.splits >= 1);
      CHECK((split.splits - 1) * split.keys < keys);  // the last is not empty
      CHECK(split.splits * split.keys >= keys);
      CHECK(split.keys % kStepSlotKeys == 0);
      // Their records fit the partial sums of the runner.
      CHECK((split.splits == 1 || split.units * split.splits <= kH200.sms));
    }
  }
}

}  // namespace
}  // namespace engine::cuda
