#include "kernels/cuda/choose.h"

#include <algorithm>
#include <bit>
#include <string_view>

#include "kernels/core/check.h"
#include "kernels/cuda/switches.h"

namespace engine::cuda {
namespace {

// Tiles of the Hopper row product: rows, and the time of a step in cycles (estimated).
struct HopperTile {
  int rows;
  std::int64_t cost;
};
constexpr HopperTile kHopperTiles[] = {{256, 1100}, {128, 620}, {64, 400}};
constexpr std::int64_t kHopperOutputTile = 128;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// The smallest compiled number of tokens that covers `tokens`.
int token_tile(std::int64_t tokens) { return tokens <= 1 ? 1 : 2; }

int head_bucket(std::int64_t head_size) {
  for (const int bucket : {16, 32, 64, 96, 128, 192, 256}) {
    if (head_size <= bucket) return bucket;
  }
  return 0;
}

}  // namespace

CudaPath parse_cuda_path(const char* value) {
  const std::string_view text = value == nullptr ? "" : value;
  if (text.empty() || text == "auto") return CudaPath::kAuto;
  if (text == "portable") return CudaPath::kPortable;
  fail(ErrorKind::kUsage, "ENGINE_CUDA_PATH is \"", text, "\", expected auto or portable");
}

bool parse_cublaslt(const char* value) {
  const std::string_view text = value == nullptr ? "" : value;
  if (text.empty() || text == "on") return true;
  if (text == "off") return false;
  fail(ErrorKind::kUsage, "ENGINE_CUBLASLT is \"", text, "\", expected on or off");
}

int gemv_blocks(const CudaArch& arch, std::int64_t units) {
  const std::int64_t least = ceil_div(units, kGemvUnits);
  return static_cast<int>(std::max(least, std::min<std::int64_t>(units, arch.sms)));
}

std::size_t gemv_launch_bytes(const CudaArch& arch, std::size_t needed) {
  return arch.hopper() ? std::max(needed, std::min(arch.shared_bytes, kExclusiveSharedBytes))
                       : needed;
}

std::size_t gemv_shared_bytes(std::int64_t columns, DType x, int token_tile, std::int64_t rows,
                              bool norm) {
  const std::int64_t lane_elements = 16 / static_cast<std::int64_t>(dtype_size(x));
  const std::int64_t padded = ceil_div(columns, 32 * lane_elements) * 32 * lane_elements;
  const auto x_bytes = static_cast<std::size_t>(padded) * dtype_size(x);
  const auto tokens = static_cast<std::size_t>(token_tile);
  constexpr std::size_t kRing = std::size_t{kGemvThreads} * kGemvDepth * 16;
  const std::size_t edges = (kGemvThreads / 32) * 2 * tokens * sizeof(float);
  return kRing + x_bytes * tokens + (norm ? x_bytes : 0) + edges +
         static_cast<std::size_t>(rows) * tokens * sizeof(float);
}

LinearPlan choose_linear(const CudaArch& arch, const LinearProblem& problem) {
  LinearPlan plan;
  if (problem.weight != plain_format(problem.x)) return plan;  // mixed types: kTiled
  plan.token_tile = token_tile(problem.tokens);
  plan.vector_loads = problem.aligned;
  plan.blocks = gemv_blocks(arch, problem.rows);
  const std::size_t shared = gemv_shared_bytes(problem.columns, problem.x, plan.token_tile,
                                               ceil_div(problem.rows, plan.blocks), false);
  // Without 16-byte loads only the single token is compiled: odd widths are small ones.
  if (problem.tokens <= (problem.aligned ? kGemvTokens : 1) && shared <= arch.shared_bytes) {
    plan.kernel = LinearKernel::kGemv;
  } else if (problem.aligned) {
    plan.kernel = LinearKernel::kMatmul;
  }
  return plan;
}

namespace {

// Whether weights may meet x as digits of three bytes: x of type f32 would lose some of its bits.
bool takes_digits(const VectorGemvProblem& problem) {
  return problem.weight == QuantFormat::kInt8 && problem.x != DType::kF32;
}

// The threads that have a row in registers in the direct kernel: those of a warp where all of the
// problem may be in flight at once, of a block where rows are long; 0: another kernel serves.
std::int64_t direct_threads(const CudaArch& arch, const VectorGemvProblem& problem) {
  if (problem.norm) return 0;
  const auto row_bytes =
      static_cast<std::int64_t>(format_info(problem.weight).row_bytes(problem.columns));
  const std::int64_t warps = ceil_div(row_bytes, 32 * 16 * std::int64_t{kVectorGemvDirectVectors});
  if (warps <= 1) return problem.rows <= arch.sms * kVectorGemvDirectRows ? 32 : 0;
  // The ring's integer products take int8 weights faster.
  if (arch.hopper() && takes_digits(problem)) return 0;
  // A block that has yet to be told its row's matrix waits twice for memory; of the largest too few
  // share a multiprocessor to hide it, and the ring is faster.
  const int most =
      arch.hopper() && problem.slots > 0 ? kVectorGemvRowThreads / 2 : kVectorGemvRowThreads;
  return warps * 32 <= most ? warps * 32 : 0;
}

}  // namespace

VectorGemvPlan choose_vector_gemv(const CudaArch& arch, const VectorGemvProblem& problem) {
  VectorGemvPlan plan;
  const auto per = static_cast<std::int64_t>(16 / format_info(problem.weight).row_bytes(1));
  const std::int64_t chunk = 32 * per, chunks = ceil_div(problem.columns, chunk);
  const auto shared = static_cast<std::size_t>(chunks * chunk) * 4;
  constexpr std::size_t kStatic = 1024;  // for what the kernel declares itself
  const bool fits = shared + kStatic <= std::min(arch.shared_bytes, kPortableSharedBytes);
  if (!problem.aligned || problem.columns == 0 || problem.slots > kVectorGemvSlots || !fits) {
    plan.threads = kVectorGemvThreads;
    plan.blocks = static_cast<int>(ceil_div(problem.rows, std::int64_t{kVectorGemvThreads} / 32));
    return plan;
  }
  if (const std::int64_t row_threads = direct_threads(arch, problem); row_threads > 0) {
    plan.kernel = VectorGemvKernel::kDirect;
    plan.vectors = chunks <= 2 ? static_cast<int>(chunks) : kVectorGemvDirectVectors;
    plan.block_rows = row_threads > 32;
    plan.threads = plan.block_rows ? static_cast<int>(row_threads) : kVectorGemvDirectThreads;
    plan.blocks = static_cast<int>(ceil_div(problem.rows, plan.threads / row_threads));
    return plan;
  }
  plan.kernel = VectorGemvKernel::kStream;
  plan.shared_bytes = shared;
  plan.blocks = static_cast<int>(
      std::min<std::int64_t>(problem.rows, std::int64_t{arch.sms} * kVectorGemvBlocksPerSm));
  // No more warps than rows: a small block starts sooner. With a norm all of them share its work.
  const std::int64_t wanted =
      problem.norm ? kVectorGemvThreads : ceil_div(problem.rows, plan.blocks) * 32;
  plan.threads = static_cast<int>(std::min<std::int64_t>(wanted, kVectorGemvThreads));
  return plan;
}

Sm90GemvPlan choose_sm90_gemv(const CudaArch& arch, const VectorGemvProblem& problem) {
  Sm90GemvPlan plan;
  const bool int8 = problem.weight == QuantFormat::kInt8;
  if (!arch.hopper() || !problem.aligned || direct_threads(arch, problem) > 0) return plan;
  if (int8 && (problem.norm || !takes_digits(problem))) return plan;
  if (problem.rows < 1 || problem.slots > kVectorGemvSlots) return plan;
  if (problem.columns < kSm90GemvSlice || problem.columns > kSm90GemvWarps * kSm90GemvSlice) {
    return plan;
  }
  const std::int64_t slices = ceil_div(problem.columns, std::int64_t{kSm90GemvSlice});
  const std::int64_t groups =
      std::min(kSm90GemvWarps / slices, ceil_div(problem.rows, std::int64_t{arch.sms}));
  const std::int64_t total = ceil_div(problem.rows, groups);
  const std::int64_t blocks = std::min<std::int64_t>(total, arch.sms);
  const std::int64_t block_stages = ceil_div(total, blocks);
  const std::int64_t sums = ceil_div(block_stages * groups * slices * 4, std::int64_t{16}) * 16;
  if (sums > kSm90GemvSumBytes) return plan;
  constexpr std::int64_t kStatic = 1024;  // for what the kernel declares itself
  const std::int64_t stage = groups * format_info(problem.weight).row_bytes(problem.columns);
  const std::int64_t room = static_cast<std::int64_t>(arch.shared_bytes) - kStatic - sums;
  const std::int64_t flying =
      problem.weight == QuantFormat::kInt8 ? kSm90GemvFlyingInt8 : kSm90GemvFlying;
  const std::int64_t stages =
      std::min<std::int64_t>({room / stage, flying / stage, block_stages, kSm90GemvStages});
  plan.serves = stages >= 1;
  plan.blocks = static_cast<int>(blocks);
  plan.total_stages = static_cast<int>(total);
  plan.slices = static_cast<int>(slices);
  plan.row_groups = static_cast<int>(groups);
  plan.stages = static_cast<int>(stages);
  plan.ring_bytes = static_cast<std::size_t>(stages * stage);
  plan.shared_bytes = plan.ring_bytes + static_cast<std::size_t>(sums);
  return plan;
}

LayerNormPlan choose_layernorm(const CudaArch& arch, std::int64_t tokens, std::int64_t width,
                               DType x, bool aligned) {
  LayerNormPlan plan;
  const std::int64_t bytes = width * static_cast<std::int64_t>(dtype_size(x));
  if (!aligned || tokens == 0 || bytes == 0 || bytes % 16 != 0) return plan;
  const auto threads_for = [&](std::int64_t vectors) {
    return ceil_div(ceil_div(bytes / 16, vectors), 32) * 32;
  };
  if (const std::int64_t threads = threads_for(kSm90LayerNormVectors);
      arch.hopper() && threads <= kSm90LayerNormThreads) {
    plan.kernel = LayerNormKernel::kSm90;
    plan.blocks = static_cast<int>(std::min<std::int64_t>(tokens, arch.sms));
    const std::int64_t rows = ceil_div(tokens, plan.blocks);
    const std::int64_t groups = std::min(kSm90LayerNormThreads / threads, rows);
    constexpr std::size_t kStatic = 4096;  // for what the kernel declares itself
    const auto room = static_cast<std::int64_t>(arch.shared_bytes - kStatic);
    const std::int64_t slots = std::min<std::int64_t>(
        {ceil_div(rows, groups), room / (groups * bytes), kSm90LayerNormSlots});
    plan.group_threads = static_cast<int>(threads);
    plan.threads = static_cast<int>(threads * groups);
    plan.slots = static_cast<int>(slots);
    plan.shared_bytes = static_cast<std::size_t>(groups * slots * bytes);
    return plan;
  }
  const std::int64_t threads = threads_for(kLayerNormVectors);
  if (threads > kLayerNormThreads) return plan;
  plan.kernel = LayerNormKernel::kRegisters;
  plan.threads = static_cast<int>(threads);
  // No more than 16 blocks, which every architecture can hold.
  const std::int64_t resident = std::min<std::int64_t>(kLayerNormThreads / threads, 16);
  plan.blocks = static_cast<int>(std::min(tokens, arch.sms * resident));
  return plan;
}

std::int64_t decode_record_floats(std::int64_t group, std::int64_t head_size) {
  return ceil_div(group * head_size + 2 * group, 4) * 4;
}

std::size_t decode_shared_bytes(std::int64_t group, std::int64_t head_size) {
  constexpr std::int64_t kWarps = 8, kHeadTile = 4;
  const std::int64_t floats =
      group * head_size + group * kDecodeChunk + 2 * group + kWarps * kHeadTile * head_size;
  return static_cast<std::size_t>(floats) * sizeof(float);
}

namespace {

// Cuts the problem's rows into tiles of `row_tile`. The rows of an expert fill whole tiles and
// begin one more at most.
void cut_rows(const RowProblem& problem, int row_tile, RowPlan* plan) {
  const std::int64_t rows = problem.tokens * problem.slots;
  plan->row_tile = row_tile;
  plan->tiles = problem.experts > 0 ? rows / row_tile + std::min(problem.experts, rows)
                                    : ceil_div(rows, row_tile);
}

// What sorting the rows by expert into such tiles takes.
std::size_t sort_bytes(const RowProblem& problem, const RowPlan& plan) {
  if (problem.experts == 0) return 0;
  const std::int64_t rows = problem.tokens * problem.slots;
  return static_cast<std::size_t>(rows + 3 * plan.tiles) * sizeof(std::int32_t);
}

// Rows of a tile of the product for a few rows; 0 where it doesn't serve the problem.
int few_rows(const CudaArch& arch, const RowProblem& problem) {
  const bool int8 = problem.weight == QuantFormat::kInt8;
  const std::int64_t rows = problem.tokens * problem.slots;
  if (problem.tokens == 1 || problem.x == DType::kF32 || !problem.aligned ||
      problem.columns % (int8 ? 16 : 8) != 0 ||
      (!int8 && problem.weight != plain_format(problem.x))) {
    return 0;
  }
  const bool mixture = problem.experts > 0;
  if (rows > (mixture ? std::min(problem.experts, rows) * kRowFewOfExpert : kRowFewRows)) return 0;
  std::int64_t most = std::min<std::int64_t>(rows, kRowFewRows);
  const auto fits = [&](std::size_t bytes) {
    return row_few_shared_bytes(problem.columns, int8 ? 1 : 2, most) <= bytes;
  };
  // Rows of one matrix that don't all fit would read it more than once. An expert has few, and
  // what x leaves of shared memory is room for weights on their way.
  const std::int64_t least = mixture ? std::min<std::int64_t>(most, kRowFewOfExpert) : most;
  while (most > least && !fits(arch.shared_bytes / 2)) --most;
  return fits(arch.shared_bytes) ? static_cast<int>(most) : 0;
}

}  // namespace

WidenedPlan choose_widened(const RowProblem& problem) {
  WidenedPlan plan;
  if (problem.tokens < kWidenedTokens || problem.experts > 0 || problem.x == DType::kF32 ||
      problem.weight != QuantFormat::kInt8 || !problem.aligned || problem.columns % 16 != 0) {
    return plan;
  }
  constexpr std::int64_t kWhole = 256;         // pieces are whole tiles of a product
  constexpr std::int64_t kMostTokens = 32768;  // rows of a grid
  const auto piece = [](std::int64_t rows, std::int64_t row_bytes, std::int64_t most) {
    return std::min(rows, std::max<std::int64_t>(most / (row_bytes * kWhole), 1) * kWhole);
  };
  plan.serves = true;
  plan.outputs = piece(problem.outputs, problem.columns * 2, kWidenedWeightBytes);
  plan.tokens = std::min(piece(problem.tokens, plan.outputs * 4, kWidenedSumBytes), kMostTokens);
  plan.weight_bytes = static_cast<std::size_t>(plan.outputs * problem.columns * 2);
  plan.sum_bytes = static_cast<std::size_t>(plan.tokens * plan.outputs * 4);
  return plan;
}

RowPlan choose_row_product(const RowProblem& problem) {
  RowPlan plan;
  const bool mixture = problem.experts > 0;
  const std::int64_t rows = problem.tokens * problem.slots;
  if (rows <= kRowGemvRows || (mixture && problem.tokens == 1)) {
    plan.kernel = RowKernel::kGemv;
    // Rows of a mixture have matrices of their own; those of a linear all share one pass.
    plan.token_tile = mixture ? 1 : static_cast<int>(std::bit_ceil(static_cast<unsigned>(rows)));
    return plan;
  }
  const bool same =
      problem.weight == QuantFormat::kInt8 || problem.weight == plain_format(problem.x);
  if (problem.x != DType::kF32 && same) plan.kernel = RowKernel::kTensorCores;
  cut_rows(problem, kRowTile, &plan);
  plan.scratch_bytes = sort_bytes(problem, plan);
  return plan;
}

RowPlan choose_row_product(const CudaArch& arch, const RowProblem& problem) {
  RowPlan plan = choose_row_product(problem);
  if (const int rows = few_rows(arch, problem); rows > 0) {
    plan = {.kernel = RowKernel::kFew};
    cut_rows(problem, rows, &plan);
    plan.scratch_bytes = sort_bytes(problem, plan);
    return plan;
  }
  if (!arch.hopper_products() || !problem.aligned || plan.kernel != RowKernel::kTensorCores ||
      problem.weight != QuantFormat::kInt8) {
    return plan;
  }
  plan.kernel = RowKernel::kHopper;
  const std::int64_t rows = problem.tokens * problem.slots;
  std::int64_t least = 0;
  int row_tile = 0;
  for (const HopperTile& tile : kHopperTiles) {
    const std::int64_t across = ceil_div(problem.outputs, kHopperOutputTile);
    // Of a mixture's experts each begins, on average, half a tile that it doesn't fill.
    const std::int64_t along =
        problem.experts == 0 ? ceil_div(rows, tile.rows)
                             : ceil_div(rows, tile.rows) + std::min(problem.experts, rows) / 2;
    const std::int64_t cost = ceil_div(across * along, arch.sms) * tile.cost;
    if (least != 0 && cost >= least) continue;
    least = cost;
    row_tile = tile.rows;
  }
  // The scratch stays that of the smallest tile, whatever the alignment.
  cut_rows(problem, row_tile, &plan);
  return plan;
}

AttentionPlan choose_attention(const CudaArch& arch, const AttentionProblem& problem) {
  AttentionPlan plan;
  const std::int64_t group = problem.heads / problem.kv_heads;
  const std::int64_t head_bytes =
      problem.head_size * static_cast<std::int64_t>(dtype_size(problem.dtype));
  const bool vectors = problem.aligned && head_bytes % 16 == 0;
  // A decode lane holds at most two 16-byte vectors of a key: head sizes to 512 (16-bit), 256.
  if (problem.tokens <= kDecodeTokens && vectors && head_bytes <= 1024 &&
      problem.head_size <= 256 && problem.tokens * problem.kv_heads <= kAttentionCounters &&
      decode_shared_bytes(group, problem.head_size) <= kPortableSharedBytes) {
    plan.kernel = AttentionKernel::kDecode;
    plan.chunks = ceil_div(problem.bound, kDecodeChunk);
    const std::int64_t records = problem.tokens * problem.kv_heads * plan.chunks;
    plan.scratch_bytes =
        plan.chunks == 1
            ? 0  // a block alone writes its result itself
            : static_cast<std::size_t>(records) * sizeof(float) *
                  static_cast<std::size_t>(decode_record_floats(group, problem.head_size));
    return plan;
  }
  if (vectors && problem.dtype != DType::kF32 && head_bucket(problem.head_size) != 0) {
    plan.kernel = AttentionKernel::kPrefill;
    plan.head_bucket = head_bucket(problem.head_size);
    if (arch.hopper_products() && problem.head_size <= kSm90HeadSize) {
      plan.kernel = AttentionKernel::kSm90Prefill;
      plan.head_bucket = std::max(64, plan.head_bucket);
      if (plan.head_bucket == 96) plan.head_bucket = 128;
    }
  }
  return plan;
}

AttentionBatchPlan choose_attention_batch(const CudaArch& arch,
                                          const AttentionBatchProblem& problem) {
  AttentionBatchPlan plan;
  visit_score(problem.score, [&](auto row) {
    using Row = decltype(row);
    plan.form = !Row::kAffine  ? ScoreForm::kFree
                : Row::kSloped ? ScoreForm::kSlope
                               : ScoreForm::kOffset;
    plan.unit_slope = Row::kUnitSlope;
  });
  const bool vectors = problem.aligned && problem.head_size % 8 == 0;
  const int bucket = head_bucket(problem.head_size);
  if (!vectors || problem.dtype == DType::kF32 || bucket == 0) return plan;
  plan.kernel = AttentionBatchKernel::kTiles;
  plan.head_bucket = bucket;
  if (bucket == 16 && problem.queries <= kSmallRows && problem.keys <= kSmallRows) {
    plan.kernel = AttentionBatchKernel::kSmall;
    return plan;
  }
  // Smaller heads gain nothing from wider products: exp2 bounds them. Of f16 only the common forms
  // are compiled.
  const bool compiled = problem.dtype == DType::kBF16 || plan.form == ScoreForm::kOffset ||
                        (plan.form == ScoreForm::kSlope && plan.unit_slope);
  if (arch.hopper_products() && bucket > 32 && bucket <= 128 && compiled) {
    plan.kernel = AttentionBatchKernel::kSm90;
    plan.head_bucket = bucket == 96 ? 128 : bucket;
  }
  return plan;
}

std::int64_t attention_batch_section(const CudaArch& arch, const ScoreRule& rule,
                                     std::int64_t heads, std::int64_t query_blocks,
                                     std::int64_t head_bytes) {
  const std::int64_t section = attention_section(arch, heads, query_blocks, head_bytes);
  const bool grows =
      rule.causal || visit_score(rule.kind, [](auto row) { return decltype(row)::kGrows; });
  // A few blocks a head even out soon, so that heads need no more than share the cache.
  constexpr std::int64_t kFewBlocks = 8, kSharedCacheBytes = std::int64_t{32} << 20;
  if (grows && query_blocks > kFewBlocks) return section;
  if (grows) {
    return std::clamp<std::int64_t>(kSharedCacheBytes / std::max<std::int64_t>(head_bytes, 1), 1,
                                    heads);
  }
  return std::clamp<std::int64_t>(ceil_div(arch.sms, std::max<std::int64_t>(query_blocks, 1)), 1,
                                  section);
}

AttentionBackwardPlan choose_attention_backward(const CudaArch& arch,
                                                const AttentionBatchProblem& problem) {
  AttentionBackwardPlan plan;
  plan.form = choose_attention_batch(arch, problem).form;
  const bool vectors = problem.aligned && problem.head_size % 8 == 0;
  if (!vectors || problem.dtype == DType::kF32 || problem.head_size > 128) return plan;
  plan.head_bucket = problem.head_size <= 64 ? 64 : 128;
  // Of f16 a function of the score itself is not compiled for Hopper.
  const bool compiled = problem.dtype == DType::kBF16 || plan.form != ScoreForm::kFree;
  plan.kernel = arch.hopper_products() && compiled ? AttentionBackwardKernel::kSm90
                                                   : AttentionBackwardKernel::kTiles;
  return plan;
}

std::int64_t attention_section(const CudaArch& arch, std::int64_t heads, std::int64_t query_blocks,
                               std::int64_t head_bytes) {
  constexpr std::int64_t kFewItems = 24;                              // of a multiprocessor
  constexpr std::int64_t kSharedCacheBytes = std::int64_t{32} << 20;  // a good half of Hopper's L2
  if (heads * query_blocks <= kFewItems * arch.sms) return heads;
  return std::clamp<std::int64_t>(kSharedCacheBytes / std::max<std::int64_t>(head_bytes, 1), 1,
                                  heads);
}

}  // namespace engine::cuda
