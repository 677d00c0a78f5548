// The choice of CUDA kernels: pure host functions, tested without a GPU.
#include "kernels/cuda/choose.h"
#include "kernels/cuda/switches.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <utility>

#include "kernels/cases/cases.h"
#include "kernels/core/check.h"

namespace engine::cuda {
namespace {

constexpr CudaArch kH200{};
constexpr CudaArch kA10{.major = 8, .minor = 6, .sms = 72, .shared_bytes = 99 * 1024};

bool refuses_path(const char* value) {
  try {
    parse_cuda_path(value);
  } catch (const Error& error) {
    return error.kind() == ErrorKind::kUsage;
  }
  return false;
}

TEST_CASE("ENGINE_CUDA_PATH is auto or portable and nothing else") {
  CHECK(parse_cuda_path(nullptr) == CudaPath::kAuto);
  CHECK(parse_cuda_path("") == CudaPath::kAuto);
  CHECK(parse_cuda_path("auto") == CudaPath::kAuto);
  CHECK(parse_cuda_path("portable") == CudaPath::kPortable);
  CHECK(refuses_path("Portable"));
  CHECK(refuses_path("hopper"));
  CHECK(refuses_path("auto "));
}

TEST_CASE("ENGINE_CUBLASLT is on or off and nothing else") {
  CHECK(parse_cublaslt(nullptr));
  CHECK(parse_cublaslt(""));
  CHECK(parse_cublaslt("on"));
  CHECK_FALSE(parse_cublaslt("off"));
  CHECK_THROWS_AS(parse_cublaslt("0"), Error);
  CHECK_THROWS_AS(parse_cublaslt("Off"), Error);
}

TEST_CASE("Hopper instructions need sm_90 and the automatic path") {
  CudaArch forced = kH200;
  forced.path = CudaPath::kPortable;
  CHECK(kH200.hopper());
  CHECK_FALSE(forced.hopper());
  CHECK_FALSE(kA10.hopper());
}

TEST_CASE("a linear of few tokens is a GEMV, of many a cuBLASLt product") {
  for (const std::int64_t tokens : {1, 2}) {
    const LinearPlan plan = choose_linear(kH200, {.tokens = tokens, .rows = 4096, .columns = 4096});
    CHECK(plan.kernel == LinearKernel::kGemv);
    CHECK(plan.vector_loads);
    CHECK(plan.token_tile >= tokens);
    CHECK(plan.token_tile < 2 * tokens + 1);
    CHECK(plan.blocks == kH200.sms);
  }
  for (const std::int64_t tokens : {3, 64, 2048}) {
    CHECK(choose_linear(kH200, {.tokens = tokens, .rows = 4096, .columns = 4096}).kernel ==
          LinearKernel::kMatmul);
  }
}

TEST_CASE("odd rows take element loads for one token and the tiled kernel for more") {
  LinearProblem problem{.tokens = 1, .rows = 997, .columns = 43, .aligned = false};
  const LinearPlan one = choose_linear(kH200, problem);
  CHECK(one.kernel == LinearKernel::kGemv);
  CHECK_FALSE(one.vector_loads);
  problem.tokens = 2;
  CHECK(choose_linear(kH200, problem).kernel == LinearKernel::kTiled);
  problem.tokens = 300;
  CHECK(choose_linear(kH200, problem).kernel == LinearKernel::kTiled);
}

TEST_CASE("weights of another type than x take the tiled kernel") {
  const LinearProblem problem{
      .tokens = 1, .rows = 4096, .columns = 4096, .x = DType::kF32, .weight = QuantFormat::kBF16};
  CHECK(choose_linear(kH200, problem).kernel == LinearKernel::kTiled);
}

TEST_CASE("a GEMV whose x does not fit in shared memory is left to cuBLASLt") {
  const LinearProblem wide{.tokens = 2, .rows = 4096, .columns = 57344};
  CHECK(choose_linear(kH200, wide).kernel == LinearKernel::kMatmul);
  const LinearProblem single{.tokens = 1, .rows = 4096, .columns = 28672};
  CHECK(choose_linear(kH200, single).kernel == LinearKernel::kGemv);
}

TEST_CASE("a GEMV stays within its shared memory for every case and on every architecture") {
  for (const CudaArch& arch : {kH200, kA10}) {
    for (const cases::LinearCase& c : cases::linear_cases()) {
      const LinearPlan plan =
          choose_linear(arch, {.tokens = c.tokens, .rows = c.outputs, .columns = c.inputs});
      if (plan.kernel != LinearKernel::kGemv) continue;
      CAPTURE(c.name());
      const std::int64_t rows = (c.outputs + plan.blocks - 1) / plan.blocks;
      CHECK(rows <= kGemvUnits);
      CHECK(plan.blocks <= c.outputs);
      CHECK(gemv_shared_bytes(c.inputs, DType::kBF16, plan.token_tile, rows, false) <=
            arch.shared_bytes);
    }
  }
}

TEST_CASE("two GEMV blocks never share a Hopper multiprocessor") {
  constexpr std::size_t kOfMultiprocessor = 228 * 1024, kReservedPerBlock = 1024;
  CHECK(2 * (gemv_launch_bytes(kH200, 1) + kReservedPerBlock) > kOfMultiprocessor);
  CHECK(gemv_launch_bytes(kH200, 200 * 1024) == 200 * 1024);
  CHECK(gemv_launch_bytes(kA10, 70 * 1024) == 70 * 1024);
}

TEST_CASE("the grid of a GEMV covers a large vocabulary without large blocks") {
  CHECK(gemv_blocks(kH200, 1) == 1);
  CHECK(gemv_blocks(kH200, 131) == 131);
  CHECK(gemv_blocks(kH200, 32000) == 132);
  CHECK(gemv_blocks(kH200, 262144) == 512);
}

TEST_CASE("attention of few queries is split over the keys, of many runs on tensor cores") {
  AttentionProblem problem{.tokens = 1, .heads = 32, .kv_heads = 8, .bound = 4096};
  CHECK(choose_attention(kH200, problem).kernel == AttentionKernel::kDecode);
  problem.tokens = kDecodeTokens;
  CHECK(choose_attention(kH200, problem).kernel == AttentionKernel::kDecode);
  problem.tokens = kDecodeTokens + 1;
  CHECK(choose_attention(kH200, problem).kernel == AttentionKernel::kSm90Prefill);
  CudaArch other = kH200;
  other.path = CudaPath::kPortable;
  CHECK(choose_attention(other, problem).kernel == AttentionKernel::kPrefill);
  CHECK(choose_attention(kA10, problem).kernel == AttentionKernel::kPrefill);
  other = kH200;
  other.major = 10;  // later cards lack Hopper's warpgroup products
  CHECK(choose_attention(other, problem).kernel == AttentionKernel::kPrefill);
  problem.dtype = DType::kF32;
  CHECK(choose_attention(kH200, problem).kernel == AttentionKernel::kPlain);
}

TEST_CASE("head sizes go to the next compiled one, others to the plain kernel") {
  AttentionProblem problem{.tokens = 64, .heads = 4, .kv_heads = 4, .bound = 64};
  const auto bucket = [&](std::int64_t head_size) {
    problem.head_size = head_size;
    const AttentionPlan plan = choose_attention(kA10, problem);
    return plan.kernel == AttentionKernel::kPrefill ? plan.head_bucket : 0;
  };
  CHECK(bucket(8) == 16);
  CHECK(bucket(64) == 64);
  CHECK(bucket(80) == 96);
  CHECK(bucket(128) == 128);
  CHECK(bucket(136) == 192);
  CHECK(bucket(256) == 256);
  CHECK(bucket(264) == 0);
  CHECK(bucket(20) == 0);  // 40 bytes: no 16-byte rows
  problem.aligned = false;
  CHECK(bucket(128) == 0);
}

TEST_CASE(
    "attention over batches picks its kernel by head size, type, score function and lengths") {
  using Kernel = AttentionBatchKernel;
  AttentionBatchProblem problem{.queries = 512, .keys = 512, .head_size = 128};
  const auto kernel = [&](const CudaArch& arch) {
    return choose_attention_batch(arch, problem).kernel;
  };
  CHECK(kernel(kH200) == Kernel::kSm90);
  CHECK(kernel(kA10) == Kernel::kTiles);
  CudaArch portable = kH200;
  portable.path = CudaPath::kPortable;
  CHECK(kernel(portable) == Kernel::kTiles);
  for (const ScoreKind kind : kScoreKinds) {
    problem.score = kind;
    CHECK(kernel(kH200) == Kernel::kSm90);
  }
  problem.dtype = DType::kF16;  // the source's four are compiled, and what differs by a mask
  problem.score = ScoreKind::kRel;
  CHECK(kernel(kH200) == Kernel::kSm90);
  CHECK(choose_attention_batch(kH200, problem).unit_slope);
  problem.score = ScoreKind::kAlibi;
  CHECK(kernel(kH200) == Kernel::kTiles);
  CHECK(choose_attention_batch(kH200, problem).form == ScoreForm::kSlope);
  problem.score = ScoreKind::kSoftCap;
  CHECK(choose_attention_batch(kH200, problem).form == ScoreForm::kFree);
  problem = {.queries = 512, .keys = 512, .head_size = 96};
  CHECK(choose_attention_batch(kH200, problem).head_bucket == 128);
  CHECK(choose_attention_batch(kA10, problem).head_bucket == 96);
  for (const std::int64_t head_size : {32, 192, 256}) {
    problem.head_size = head_size;
    CHECK(kernel(kH200) == Kernel::kTiles);
  }
  problem.head_size = 16;
  CHECK(kernel(kH200) == Kernel::kTiles);
  problem.queries = problem.keys = 256;
  CHECK(kernel(kH200) == Kernel::kSmall);
  CHECK(kernel(kA10) == Kernel::kSmall);
  for (const std::int64_t head_size : {20, 264, 512}) {
    problem.head_size = head_size;
    CHECK(kernel(kH200) == Kernel::kPlain);
  }
  problem = {.queries = 64, .keys = 64, .head_size = 64, .aligned = false};
  CHECK(kernel(kH200) == Kernel::kPlain);
  problem = {.queries = 64, .keys = 64, .head_size = 64, .dtype = DType::kF32};
  CHECK(kernel(kH200) == Kernel::kPlain);
}

TEST_CASE("heads of a batch share L2 unless later blocks see more keys") {
  constexpr std::int64_t kHeads = 128, kBlocks = 8, kBytes = 512 * 1024;
  ScoreRule rule;
  CHECK(attention_batch_section(kH200, rule, kHeads, kBlocks, kBytes) == 17);  // 132 ÷ 8, up
  CHECK(attention_batch_section(kH200, rule, 4, 1, kBytes) == 4);
  CHECK(attention_batch_section(kH200, rule, kHeads, 1000, kBytes) == 1);
  rule.kind = ScoreKind::kCausal;
  CHECK(attention_batch_section(kH200, rule, kHeads, kBlocks, kBytes) == 64);  // 32 MiB
  rule = {.kind = ScoreKind::kRel, .causal = true};
  CHECK(attention_batch_section(kH200, rule, kHeads, kBlocks, kBytes) == 64);
  CHECK(attention_batch_section(kH200, rule, kHeads, 32, 4 * kBytes) ==
        attention_section(kH200, kHeads, 32, 4 * kBytes));
}

TEST_CASE("Hopper's attention serves head sizes to 256 in four compiled ones") {
  AttentionProblem problem{.tokens = 64, .heads = 4, .kv_heads = 4, .bound = 64};
  const auto bucket = [&](std::int64_t head_size) {
    problem.head_size = head_size;
    const AttentionPlan plan = choose_attention(kH200, problem);
    return plan.kernel == AttentionKernel::kSm90Prefill ? plan.head_bucket : 0;
  };
  CHECK(bucket(8) == 64);
  CHECK(bucket(64) == 64);
  CHECK(bucket(72) == 128);
  CHECK(bucket(128) == 128);
  CHECK(bucket(136) == 192);
  CHECK(bucket(256) == 256);
  CHECK(bucket(264) == 0);
  problem.aligned = false;
  CHECK(bucket(128) == 0);
}

TEST_CASE("heads run side by side: all of a small problem, what shares the cache of a large one") {
  CHECK(attention_section(kH200, 32, 32, 2 << 20) == 32);
  CHECK(attention_section(kH200, 256, 32, 2 << 20) == 16);
  CHECK(attention_section(kH200, 256, 32, 64 << 20) == 1);
  CHECK(attention_section(kH200, 4000, 1, 0) == 4000);
}

TEST_CASE("a decode's chunks cover the bound and its scratch holds their records") {
  AttentionProblem problem{.tokens = 3, .heads = 12, .kv_heads = 4, .head_size = 64};
  for (const std::int64_t bound : {1, 128, 129, 66000}) {
    problem.bound = bound;
    const AttentionPlan plan = choose_attention(kH200, problem);
    CHECK(plan.chunks == (bound + kDecodeChunk - 1) / kDecodeChunk);
    const std::int64_t records = plan.chunks == 1 ? 0 : 3 * 4 * plan.chunks;
    // Three heads of 64 sums, a maximum and a total each, to a multiple of four floats.
    CHECK(plan.scratch_bytes == static_cast<std::size_t>(records) * 200 * 4);
  }
}

TEST_CASE("a decode of more query and head pairs than counters takes another kernel") {
  const AttentionProblem problem{
      .tokens = 8, .heads = kAttentionCounters, .kv_heads = kAttentionCounters, .bound = 256};
  CHECK(choose_attention(kH200, problem).kernel != AttentionKernel::kDecode);
}

TEST_CASE("a decode stays within its shared memory for every case") {
  for (const cases::AttentionCase& c : cases::attention_cases()) {
    for (const DType dtype : cases::kFloatTypes) {
      const AttentionPlan plan = choose_attention(kA10, {.tokens = c.tokens,
                                                         .heads = c.heads,
                                                         .kv_heads = c.kv_heads,
                                                         .head_size = c.head_size,
                                                         .bound = c.bound(),
                                                         .dtype = dtype});
      if (plan.kernel != AttentionKernel::kDecode) continue;
      CAPTURE(c.name());
      CHECK(decode_shared_bytes(c.heads / c.kv_heads, c.head_size) <= kA10.shared_bytes);
    }
  }
}

TEST_CASE("a linear of int8 weights is a GEMV for few tokens, a product on tensor cores for many") {
  int last = 0;
  for (const std::int64_t tokens : {1, 2, 3, 4, 5, 8}) {
    const RowPlan plan = choose_row_product({.tokens = tokens});
    CHECK(plan.kernel == RowKernel::kGemv);
    CHECK(plan.token_tile >= tokens);
    CHECK(plan.token_tile < 2 * tokens);
    CHECK(plan.token_tile >= last);
    CHECK(plan.scratch_bytes == 0);
    last = plan.token_tile;
  }
  for (const DType x : {DType::kF16, DType::kBF16}) {
    CHECK(choose_row_product({.tokens = 9, .x = x}).kernel == RowKernel::kTensorCores);
  }
  CHECK(choose_row_product({.tokens = 9, .x = DType::kF32}).kernel == RowKernel::kPlain);
  CHECK(choose_row_product({.tokens = 64}).tiles == 1);
  CHECK(choose_row_product({.tokens = 65}).tiles == 2);
  CHECK(choose_row_product({.tokens = 65}).scratch_bytes == 0);
}

TEST_CASE("the rows of a mixture are a GEMV while they are few or of one token") {
  for (const auto& [tokens, slots] :
       {std::pair<std::int64_t, std::int64_t>{1, 2}, {4, 2}, {8, 1}, {2, 3}, {1, 16}}) {
    const RowPlan plan = choose_row_product({.tokens = tokens, .slots = slots, .experts = 16});
    CHECK(plan.kernel == RowKernel::kGemv);
    CHECK(plan.token_tile == 1);
    CHECK(plan.scratch_bytes == 0);
  }
  CHECK(choose_row_product({.tokens = 5, .slots = 2, .experts = 8}).kernel ==
        RowKernel::kTensorCores);
  CHECK(choose_row_product({.tokens = 2, .slots = 16, .experts = 17}).kernel ==
        RowKernel::kTensorCores);
  const RowProblem mixed{
      .tokens = 300, .slots = 2, .experts = 8, .x = DType::kF16, .weight = QuantFormat::kBF16};
  CHECK(choose_row_product(mixed).kernel == RowKernel::kPlain);
}

TEST_CASE("a few rows of 16 bits go to tensor cores where their x fits a block") {
  const auto chosen = [](const CudaArch& arch, const RowProblem& problem) {
    return choose_row_product(arch, problem).kernel;
  };
  for (const CudaArch& arch : {kA10, kH200}) {
    for (const std::int64_t tokens : {2, 3, 6, 8}) {
      const RowPlan plan = choose_row_product(arch, {.tokens = tokens});
      CHECK(plan.kernel == RowKernel::kFew);
      CHECK(plan.row_tile == tokens);
      CHECK(plan.tiles == 1);
      CHECK(plan.scratch_bytes == 0);
    }
    CHECK(chosen(arch, {.tokens = 1}) == RowKernel::kGemv);
    CHECK(chosen(arch, {.tokens = 9}) != RowKernel::kFew);
    CHECK(chosen(arch, {.tokens = 6, .x = DType::kF32}) == RowKernel::kGemv);
    CHECK(chosen(arch, {.tokens = 6, .aligned = false}) == RowKernel::kGemv);
    CHECK(chosen(arch, {.tokens = 6, .columns = 4104}) == RowKernel::kGemv);
    CHECK(chosen(arch, {.tokens = 6, .x = DType::kF16, .weight = QuantFormat::kBF16}) ==
          RowKernel::kGemv);
  }
  CHECK(chosen(kH200, {.tokens = 8, .columns = 11008}) == RowKernel::kFew);
  CHECK(chosen(kA10, {.tokens = 8, .columns = 11008}) == RowKernel::kGemv);
}

TEST_CASE("the few rows of each expert share a pass over its matrix") {
  const RowProblem mixtral{.tokens = 6, .slots = 2, .experts = 8, .outputs = 28672};
  const RowPlan up = choose_row_product(kH200, mixtral);
  CHECK(up.kernel == RowKernel::kFew);
  CHECK(up.row_tile == kRowFewRows);
  RowProblem other = mixtral;
  other.columns = 14336;
  const RowPlan down = choose_row_product(kH200, other);
  CHECK(down.kernel == RowKernel::kFew);
  CHECK(down.row_tile < kRowFewRows);
  CHECK(down.row_tile >= kRowFewOfExpert);
  for (const RowPlan& plan : {up, down}) {
    CHECK(plan.tiles == 12 / plan.row_tile + 8);  // each of 8 experts may have one that isn't full
    CHECK(plan.scratch_bytes ==
          static_cast<std::size_t>(12 + 3 * plan.tiles) * sizeof(std::int32_t));
  }
  other = mixtral;
  other.tokens = 17;
  CHECK(choose_row_product(kH200, other).kernel == RowKernel::kHopper);
  other.tokens = 1;
  CHECK(choose_row_product(kH200, other).kernel == RowKernel::kGemv);
}

TEST_CASE("products of int8 weights for many rows take Hopper's kernel where they can") {
  CHECK(choose_row_product(kH200, {.tokens = 9}).kernel == RowKernel::kHopper);
  CHECK(choose_row_product(kH200, {.tokens = 9, .x = DType::kF32}).kernel == RowKernel::kPlain);
  CHECK(choose_row_product(kA10, {.tokens = 9}).kernel == RowKernel::kTensorCores);
  CHECK(choose_row_product(kH200, {.tokens = 9, .aligned = false}).kernel ==
        RowKernel::kTensorCores);
  CHECK(choose_row_product(kH200, {.tokens = 9, .weight = QuantFormat::kBF16}).kernel ==
        RowKernel::kTensorCores);
  CudaArch portable = kH200;
  portable.path = CudaPath::kPortable;
  CHECK(choose_row_product(portable, {.tokens = 9}).kernel == RowKernel::kTensorCores);
  CudaArch later = kH200;  // wgmma is Hopper's alone
  later.major = 10;
  CHECK(choose_row_product(later, {.tokens = 9}).kernel == RowKernel::kTensorCores);
}

TEST_CASE("int8 weights are widened for many rows of 16 bits, in pieces of whole tiles") {
  CHECK(choose_widened({.tokens = kWidenedTokens}).serves);
  CHECK(choose_widened({.tokens = kWidenedTokens, .x = DType::kF16}).serves);
  CHECK_FALSE(choose_widened({.tokens = kWidenedTokens - 1}).serves);
  CHECK_FALSE(choose_widened({.tokens = 2048, .x = DType::kF32}).serves);
  CHECK_FALSE(choose_widened({.tokens = 2048, .weight = QuantFormat::kBF16}).serves);
  CHECK_FALSE(choose_widened({.tokens = 2048, .aligned = false}).serves);
  CHECK_FALSE(choose_widened({.tokens = 2048, .columns = 4104}).serves);
  CHECK_FALSE(choose_widened({.tokens = 2048, .slots = 2, .experts = 8}).serves);
  const WidenedPlan small = choose_widened({.tokens = 600, .outputs = 131, .columns = 64});
  CHECK(small.outputs == 131);
  CHECK(small.tokens == 600);
  CHECK(small.weight_bytes == 131u * 64 * 2);
  CHECK(small.sum_bytes == 131u * 600 * 4);
  for (const std::int64_t outputs : {4096, 22016, 24840, 57344, 128256}) {
    for (const std::int64_t columns : {4096, 8192, 28672}) {
      for (const std::int64_t tokens : {600, 2048, 1 << 20}) {
        const WidenedPlan plan =
            choose_widened({.tokens = tokens, .outputs = outputs, .columns = columns});
        CHECK(plan.serves);
        CHECK((plan.outputs == outputs || plan.outputs % 256 == 0));
        CHECK((plan.tokens == tokens || plan.tokens % 256 == 0));
        CHECK(plan.tokens <= 65535);  // rows of a grid
        CHECK(plan.weight_bytes <= static_cast<std::size_t>(kWidenedWeightBytes));
        CHECK(plan.sum_bytes <= static_cast<std::size_t>(kWidenedSumBytes));
      }
    }
  }
  CHECK(choose_widened({.tokens = 2048, .outputs = 22016}).outputs == 22016);
  CHECK(choose_widened({.tokens = 2048, .outputs = 4096}).tokens == 2048);
}

TEST_CASE("tiles of Hopper's row product fill the multiprocessors, and cover the rows") {
  CHECK(choose_row_product(kH200, {.tokens = 2048, .outputs = 12288}).row_tile == 256);
  CHECK(choose_row_product(kH200, {.tokens = 512, .outputs = 4096}).row_tile == 128);
  CHECK(choose_row_product(kH200, {.tokens = 9, .outputs = 4096}).row_tile == 64);
  for (const std::int64_t tokens : {9, 64, 65, 300, 4096}) {
    for (const std::int64_t experts : {0, 1, 8, 300}) {
      const std::int64_t slots = experts > 1 ? 2 : 1, rows = tokens * slots;
      const RowProblem problem{.tokens = tokens, .slots = slots, .experts = experts};
      const RowPlan plan = choose_row_product(kH200, problem);
      if (plan.kernel != RowKernel::kHopper) continue;
      CHECK(plan.tiles * plan.row_tile >= rows);
      if (experts == 0) continue;
      CHECK(plan.tiles == rows / plan.row_tile + std::min(experts, rows));
      // Operands that turn out not to be aligned need no more.
      CHECK(plan.scratch_bytes == choose_row_product(problem).scratch_bytes);
      CHECK(plan.scratch_bytes >=
            static_cast<std::size_t>(rows + 3 * plan.tiles) * sizeof(std::int32_t));
    }
  }
}

TEST_CASE("the tiles of a mixture cover every way of spreading its rows over the experts") {
  // The worst spread gives all experts one row and the rest, in whole tiles and one row more, too.
  for (const std::int64_t tokens : {9, 64, 65, 300, 4096}) {
    for (const std::int64_t experts : {1, 2, 5, 8, 64, 300}) {
      for (const std::int64_t slots : {1, 2, 3}) {
        const std::int64_t rows = tokens * slots;
        const RowPlan plan =
            choose_row_product({.tokens = tokens, .slots = slots, .experts = experts});
        if (plan.kernel == RowKernel::kGemv) continue;
        for (std::int64_t used = 1; used <= std::min(experts, rows); ++used) {
          // `used` experts with one row, all others to the last: then rows evenly spread.
          const std::int64_t rest = rows - (used - 1);
          const std::int64_t skewed = used - 1 + (rest + kRowTile - 1) / kRowTile;
          const std::int64_t more = rows % used, each = rows / used;
          const std::int64_t even = more * ((each + kRowTile) / kRowTile) +
                                    (used - more) * ((each + kRowTile - 1) / kRowTile);
          CHECK(plan.tiles >= skewed);
          CHECK(plan.tiles >= even);
        }
        CHECK(plan.tiles <= rows / kRowTile + experts);
        CHECK(plan.scratch_bytes ==
              static_cast<std::size_t>(rows + 3 * plan.tiles) * sizeof(std::int32_t));
      }
    }
  }
}

TEST_CASE("the backward of attention takes tensor cores where the operands let it") {
  using Kernel = AttentionBackwardKernel;
  const AttentionBatchProblem problem;
  CHECK(choose_attention_backward(kH200, problem).kernel == Kernel::kSm90);
  CHECK(choose_attention_backward(kH200, problem).head_bucket == 128);
  CHECK(choose_attention_backward(kA10, problem).kernel == Kernel::kTiles);
  CudaArch portable = kH200;
  portable.path = CudaPath::kPortable;
  CHECK(choose_attention_backward(portable, problem).kernel == Kernel::kTiles);
  for (const std::int64_t head_size : {8, 24, 64}) {
    CHECK(choose_attention_backward(kH200, {.head_size = head_size}).head_bucket == 64);
  }
  CHECK(choose_attention_backward(kH200, {.head_size = 72}).head_bucket == 128);
  for (const AttentionBatchProblem& other :
       {AttentionBatchProblem{.head_size = 136}, AttentionBatchProblem{.head_size = 60},
        AttentionBatchProblem{.dtype = DType::kF32}, AttentionBatchProblem{.aligned = false}}) {
    CHECK(choose_attention_backward(kH200, other).kernel == Kernel::kPlain);
  }
  // Every form of score function in bf16, of f16 those that are affine.
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const auto form = [&](ScoreKind kind) {
      return choose_attention_backward(kH200, {.dtype = dtype, .score = kind});
    };
    CHECK(form(ScoreKind::kDocument).form == ScoreForm::kOffset);
    CHECK(form(ScoreKind::kAlibi).form == ScoreForm::kSlope);
    CHECK(form(ScoreKind::kAlibi).kernel == Kernel::kSm90);
    CHECK(form(ScoreKind::kSoftCap).form == ScoreForm::kFree);
    CHECK(form(ScoreKind::kSoftCap).kernel ==
          (dtype == DType::kBF16 ? Kernel::kSm90 : Kernel::kTiles));
  }
}

TEST_CASE("a layer norm holds rows in registers up to two vectors a thread") {
  CudaArch arch;
  arch.path = CudaPath::kPortable;
  const LayerNormPlan wide = choose_layernorm(arch, 4096, 16384, DType::kBF16, true);
  CHECK(wide.kernel == LayerNormKernel::kRegisters);
  CHECK(wide.threads == 1024);
  CHECK(wide.blocks == 132);
  const LayerNormPlan narrow = choose_layernorm(arch, 4096, 1024, DType::kBF16, true);
  CHECK(narrow.threads == 64);
  CHECK(narrow.blocks == 16 * 132);
  CHECK(choose_layernorm(arch, 1, 4096, DType::kBF16, true).blocks == 1);
  const auto kernel = [&](std::int64_t width, bool aligned) {
    return choose_layernorm(arch, 4, width, DType::kBF16, aligned).kernel;
  };
  CHECK(kernel(1024, false) == LayerNormKernel::kPlain);
  CHECK(kernel(1023, true) == LayerNormKernel::kPlain);
  CHECK(kernel(32768, true) == LayerNormKernel::kPlain);
}

TEST_CASE(
    "a layer norm on Hopper fills a block with groups of warps, and its ring with their rows") {
  const CudaArch arch;
  const auto plan = [&](std::int64_t tokens, std::int64_t width) {
    const LayerNormPlan p = choose_layernorm(arch, tokens, width, DType::kBF16, true);
    CHECK(p.kernel == LayerNormKernel::kSm90);
    CHECK(p.shared_bytes + 4096 <= arch.shared_bytes);
    return p;
  };
  const LayerNormPlan wide = plan(4096, 16384);
  CHECK(wide.blocks == 132);
  CHECK(wide.threads == 512);
  CHECK(wide.group_threads == 512);
  CHECK(wide.slots == 6);
  const LayerNormPlan narrow = plan(4096, 1024);
  CHECK(narrow.threads == 512);
  CHECK(narrow.group_threads == 32);
  CHECK(narrow.slots == 2);  // all of a group's rows
  CHECK(plan(1, 4096).threads == 128);
  CHECK(plan(1, 4096).blocks == 1);
  CHECK(choose_layernorm(arch, 4, 1024, DType::kBF16, false).kernel == LayerNormKernel::kPlain);
  CHECK(choose_layernorm(arch, 4, 16400, DType::kBF16, true).kernel == LayerNormKernel::kPlain);
}

}  // namespace
}  // namespace engine::cuda
