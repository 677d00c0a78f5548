// Which kernel serves a problem: pure functions of the architecture and the problem, without CUDA.
//
// Whatever they decide depends on shapes, types, alignments and bounds alone, never on timing or on
// device data, so the same step always runs the same kernels, eager or replayed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/core/score_function.h"

namespace engine::cuda {

enum class CudaPath {
  kAuto,      // the best kernels of the architecture
  kPortable,  // those that need no Hopper instruction
};

// The value of ENGINE_CUDA_PATH: null, "" and "auto", or "portable". Throws Error{kUsage} for
// anything else.
CudaPath parse_cuda_path(const char* value);

struct CudaArch {
  int major = 9;
  int minor = 0;
  int sms = 132;
  std::size_t shared_bytes = 227 * 1024;  // the most a block may have
  CudaPath path = CudaPath::kAuto;

  // Whether kernels may use what came with sm_90.
  bool hopper() const { return major >= 9 && path == CudaPath::kAuto; }
  // Whether they may use what is sm_90a's alone, such as warpgroup products.
  bool hopper_products() const { return hopper() && major == 9; }
};

enum class LinearKernel {
  kGemv,    // own, few tokens: streams the weights once at memory speed
  kMatmul,  // cuBLASLt
  kTiled,   // own, any type, shape and stride
};

struct LinearProblem {
  std::int64_t tokens = 1;   // T
  std::int64_t rows = 1;     // N
  std::int64_t columns = 1;  // K
  DType x = DType::kBF16;
  QuantFormat weight = QuantFormat::kBF16;
  // x and weight start, and step from row to row, on multiples of 16 bytes.
  bool aligned = true;
};

struct LinearPlan {
  LinearKernel kernel = LinearKernel::kTiled;
  // kGemv: tokens served by one pass over the weights (1 or 2), 16-byte loads or single
  // elements, blocks of the grid.
  int token_tile = 1;
  bool vector_loads = true;
  int blocks = 1;
};

// Most tokens of the GEMV; cuBLASLt is faster for more.
inline constexpr std::int64_t kGemvTokens = 2;
// More than half of a Hopper multiprocessor's 228 KB of shared memory: two blocks that ask for it
// never share one.
inline constexpr std::size_t kExclusiveSharedBytes = 116 * 1024;
// What a block may have on every architecture from sm_80 on.
inline constexpr std::size_t kPortableSharedBytes = 96 * 1024;
// Threads of a GEMV block, one block to a multiprocessor.
inline constexpr int kGemvThreads = 512;
// Chunks of 16 bytes that every lane keeps in flight.
inline constexpr int kGemvDepth = 8;
// Most units (rows, or pairs of rows) that one block computes.
inline constexpr std::int64_t kGemvUnits = 512;

LinearPlan choose_linear(const CudaArch& arch, const LinearProblem& problem);

// Blocks of a GEMV over `units`: one a multiprocessor, more where a block would get too many.
int gemv_blocks(const CudaArch& arch, std::int64_t units);
// Dynamic shared memory that a GEMV block needs (gemv.cuh has its layout), and what it asks for.
std::size_t gemv_launch_bytes(const CudaArch& arch, std::size_t needed);
std::size_t gemv_shared_bytes(std::int64_t columns, DType x, int token_tile, std::int64_t rows,
                              bool norm);

// One vector by a matrix, or by matrices chosen on the device (vector_gemv.h).
struct VectorGemvProblem {
  std::int64_t rows = 1;     // of all the matrices together
  std::int64_t columns = 1;  // K
  std::int64_t slots = 0;    // matrices chosen on the device; 0: none is
  DType x = DType::kBF16;
  QuantFormat weight = QuantFormat::kBF16;
  // x and the rows of the weight start on multiples of 16 bytes.
  bool aligned = true;
  bool norm = false;  // x is normalised first
};
enum class VectorGemvKernel {
  kPlain,   // any number of columns, any alignment
  kStream,  // 16-byte loads, x in shared memory
  kDirect,  // a warp or a block for each row, all of it in flight at once
};
struct VectorGemvPlan {
  VectorGemvKernel kernel = VectorGemvKernel::kPlain;
  int blocks = 1, threads = 32;
  int vectors = 1;          // kDirect: of a row, for each thread
  bool block_rows = false;  // kDirect: a block for each row
  std::size_t shared_bytes = 0;
};
inline constexpr int kVectorGemvThreads = 512;
inline constexpr int kVectorGemvBlocksPerSm = 2;
// Vectors of 16 bytes that every lane keeps in flight.
inline constexpr int kVectorGemvDepth = 8;
// Most matrices chosen on the device: a lane of the warp holds the number of each.
inline constexpr std::int64_t kVectorGemvSlots = 32;
// kDirect: most vectors of a row for each thread; a block of warps that have a row each, and most
// such rows for a multiprocessor; most threads of a block that has a row.
inline constexpr int kVectorGemvDirectVectors = 4;
inline constexpr int kVectorGemvDirectThreads = 256, kVectorGemvRowThreads = 512;
inline constexpr std::int64_t kVectorGemvDirectRows = 32;
VectorGemvPlan choose_vector_gemv(const CudaArch& arch, const VectorGemvProblem& problem);

// The same on Hopper (sm90_vector_gemv.cu), a block a multiprocessor.
struct Sm90GemvPlan {
  bool serves = false;
  int blocks = 1;
  int slices = 1, row_groups = 1;  // of warps: a row's columns, and rows at a time
  int total_stages = 1;            // of `row_groups` rows, dealt out to the blocks in turn
  int stages = 1;                  // in flight
  std::size_t ring_bytes = 0, shared_bytes = 0;
};
inline constexpr int kSm90GemvWarps = 16;    // that multiply
inline constexpr int kSm90GemvSlice = 1024;  // columns of a warp
inline constexpr int kSm90GemvStages = 16;   // at most
// Bytes of weights that a block has in flight: more, or fewer of 16 bits, was slower
// (docs/performance.md).
inline constexpr std::int64_t kSm90GemvFlying = 128 * 1024, kSm90GemvFlyingInt8 = 64 * 1024;
// Bytes that a block may have for the sums of its rows' slices.
inline constexpr std::int64_t kSm90GemvSumBytes = 24 * 1024;
Sm90GemvPlan choose_sm90_gemv(const CudaArch& arch, const VectorGemvProblem& problem);

enum class LayerNormKernel {
  kSm90,       // rows ahead by bulk copies, groups of warps, parameters in registers
  kRegisters,  // rows and parameters in registers
  kPlain,      // any width and alignment: passes over a row three times
};

struct LayerNormPlan {
  LayerNormKernel kernel = LayerNormKernel::kPlain;
  int blocks = 1, threads = 32;
  // kSm90: threads that share a row, rows that they have in flight, and what a block has of them.
  int group_threads = 32, slots = 1;
  std::size_t shared_bytes = 0;
};
inline constexpr int kLayerNormThreads = 1024;
// Vectors of 16 bytes that a thread holds.
inline constexpr int kLayerNormVectors = 2;
inline constexpr int kSm90LayerNormThreads = 512;
inline constexpr int kSm90LayerNormVectors = 4;
// Most rows in flight of a group.
inline constexpr int kSm90LayerNormSlots = 8;
// `aligned`: x, out, weight and bias start, and step, on multiples of 16 bytes.
LayerNormPlan choose_layernorm(const CudaArch& arch, std::int64_t tokens, std::int64_t width,
                               DType x, bool aligned);

enum class AttentionKernel {
  kDecode,       // split over the keys, one block per key/value head, chunk and query
  kSm90Prefill,  // flash attention on Hopper's warpgroup products and bulk copies
  kPrefill,      // flash attention on tensor cores
  kPlain,        // flash attention on CUDA cores, any type and head size
};

struct AttentionProblem {
  std::int64_t tokens = 1;
  std::int64_t heads = 1;
  std::int64_t kv_heads = 1;
  std::int64_t head_size = 128;
  std::int64_t bound = 1;
  DType dtype = DType::kBF16;
  // q, the caches and out start, and step, on multiples of 16 bytes.
  bool aligned = true;
};

struct AttentionPlan {
  AttentionKernel kernel = AttentionKernel::kPlain;
  int head_bucket =
      0;  // kPrefill, kSm90Prefill: the compiled head size, head_size zero-filled to it
  std::int64_t chunks = 0;        // kDecode: chunks of kDecodeChunk keys that cover the bound
  std::size_t scratch_bytes = 0;  // kDecode: partial results
};

inline constexpr std::int64_t kDecodeTokens = 8;
// Keys of one block of the split. Fixed, so that a result does not depend on the bound.
inline constexpr std::int64_t kDecodeChunk = 128;
// Most (query, key/value head) pairs of one decode launch: each has an arrival counter.
inline constexpr std::int64_t kAttentionCounters = 8192;
inline constexpr std::int64_t kPlainHeadSize = 512;
// Largest head size of kSm90Prefill.
inline constexpr std::int64_t kSm90HeadSize = 256;

AttentionPlan choose_attention(const CudaArch& arch, const AttentionProblem& problem);

enum class AttentionBatchKernel {
  kSm90,   // flash attention on Hopper's warpgroup products and bulk copies
  kSmall,  // tensor cores, small heads of short sequences whole in shared memory
  kTiles,  // flash attention on tensor cores
  kPlain,  // flash attention on CUDA cores, any type and head size
};

// What a score function does beside masking: kernels are compiled for each.
enum class ScoreForm {
  kOffset,  // adds a constant of the row, or nothing
  kSlope,   // adds slope · (q − k)
  kFree,    // a function of the score
};

// Most queries and keys of kSmall.
inline constexpr int kSmallRows = 256;

struct AttentionBatchProblem {
  std::int64_t queries = 1, keys = 1;  // of a sequence, the most
  std::int64_t head_size = 128;
  DType dtype = DType::kBF16;
  ScoreKind score = ScoreKind::kNoop;
  // q, k, v and out start, and step, on multiples of 16 bytes.
  bool aligned = true;
};

struct AttentionBatchPlan {
  AttentionBatchKernel kernel = AttentionBatchKernel::kPlain;
  int head_bucket = 0;  // kSm90, kTiles: the compiled head size, head_size zero-filled to it
  ScoreForm form = ScoreForm::kOffset;
  bool unit_slope = false;  // kSlope: the slope is 1
};

AttentionBatchPlan choose_attention_batch(const CudaArch& arch,
                                          const AttentionBatchProblem& problem);

enum class AttentionBackwardKernel {
  kSm90,   // Hopper's warpgroup products and bulk copies, by tile of keys
  kTiles,  // tensor cores, a pass by tile of keys and one by tile of queries
  kPlain,  // CUDA cores, any type and head size
};

struct AttentionBackwardPlan {
  AttentionBackwardKernel kernel = AttentionBackwardKernel::kPlain;
  int head_bucket = 0;  // kSm90, kTiles: the compiled head size, head_size zero-filled to it
  ScoreForm form = ScoreForm::kOffset;
};

// `aligned` holds for out and every gradient too.
AttentionBackwardPlan choose_attention_backward(const CudaArch& arch,
                                                const AttentionBatchProblem& problem);

// Query heads that kSm90Prefill works on side by side, where each has `query_blocks` items and
// `head_bytes` of keys and values. All of them while a block gets few items, since the longest
// first then even out best; else as many as share the L2 cache.
std::int64_t attention_section(const CudaArch& arch, std::int64_t heads, std::int64_t query_blocks,
                               std::int64_t head_bytes);

// The same for attention_batch, `heads` being those of all sequences. Where every item has as many
// keys as any other, no more heads than it takes to keep every multiprocessor busy; where later
// ones have more, but a head few blocks, as many as share the cache.
std::int64_t attention_batch_section(const CudaArch& arch, const ScoreRule& rule,
                                     std::int64_t heads, std::int64_t query_blocks,
                                     std::int64_t head_bytes);

// Floats that a decode block leaves for the combination: (group, Dh) sums, then (group, 2) maxima
// and totals, rounded up to 16 bytes.
std::int64_t decode_record_floats(std::int64_t group, std::int64_t head_size);
// Dynamic shared memory of a decode block (attention_decode.cu has its layout).
std::size_t decode_shared_bytes(std::int64_t group, std::int64_t head_size);

// The products of row_product.h: linears of int8 weights, and those of a mixture of experts.
enum class RowKernel {
  kGemv,         // few rows: streams each row's matrix
  kFew,          // a few rows of 16 bits, weights of the same type or int8: on tensor cores
  kTensorCores,  // many rows of 16 bits, weights of the same type or int8
  kPlain,        // many rows, any types
  kHopper,       // many rows of 16 bits, int8 weights, on Hopper's tensor cores
};

struct RowProblem {
  std::int64_t tokens = 1;   // T
  std::int64_t slots = 1;    // S: experts chosen for a token; 1 of a linear
  std::int64_t experts = 0;  // E; 0: one matrix, a linear
  DType x = DType::kBF16;
  QuantFormat weight = QuantFormat::kInt8;
  std::int64_t outputs = 4096, columns = 4096;  // N, K
  // x and weight start, and step from row to row, on multiples of 16 bytes.
  bool aligned = true;
};

struct RowPlan {
  RowKernel kernel = RowKernel::kPlain;
  int token_tile = 1;             // kGemv: rows that share one pass over the matrix
  int row_tile = 0;               // others: rows of a tile
  std::int64_t tiles = 0;         // others: tiles of rows, with experts the most there are
  std::size_t scratch_bytes = 0;  // others, with experts: the rows by expert, and the tiles
};

// Rows of one tile of the products for many rows that need no Hopper.
inline constexpr int kRowTile = 64;
// Most rows of the row GEMV; with experts the rows of a single token are never too many.
inline constexpr std::int64_t kRowGemvRows = 8;

// Rows of x, and outputs, of a tile of the product for a few rows, and the warps that share it.
inline constexpr int kRowFewRows = 8, kRowFewOutputs = 32, kRowFewWarps = 16;
// With experts, the most rows of each, on average, that are a few.
inline constexpr std::int64_t kRowFewOfExpert = 4;

// Bytes from row to row of x in its shared memory; of weights of `weight_bytes` each a lane reads
// 32 bytes of x or 16.
constexpr int row_few_pitch(std::int64_t columns, std::size_t weight_bytes) {
  const std::int64_t lines = (columns * 2 + 127) / 128;
  return static_cast<int>(lines * 128 + (weight_bytes == 1 ? 16 : 64));
}
// Its shared memory with `rows` of x.
constexpr std::size_t row_few_shared_bytes(std::int64_t columns, std::size_t weight_bytes,
                                           std::int64_t rows) {
  return static_cast<std::size_t>(rows * row_few_pitch(columns, weight_bytes)) +
         2 * sizeof(float) * kRowFewWarps * kRowFewRows * (kRowFewOutputs + 1);
}

// A linear of int8 weights over many rows by cuBLASLt: pieces of q become x's type in scratch,
// exactly, their products with pieces of x are fp32 sums in scratch, and what ends the linear reads
// those. Bytes of each piece: few enough to be had beside a model, enough for the products to be
// as fast as if whole.
inline constexpr std::int64_t kWidenedWeightBytes = std::int64_t{192} << 20;
inline constexpr std::int64_t kWidenedSumBytes = std::int64_t{64} << 20;
// Fewest rows of x that pay for the pass over the weights: at 512 whole tiles of 256 rows are
// faster.
inline constexpr std::int64_t kWidenedTokens = 513;

struct WidenedPlan {
  bool serves = false;
  std::int64_t outputs = 0, tokens = 0;  // of a piece of the weight, and of x
  std::size_t weight_bytes = 0;          // of scratch: the widened piece of the weight,
  std::size_t sum_bytes = 0;             // and the sums
};
WidenedPlan choose_widened(const RowProblem& problem);

// What serves every architecture.
RowPlan choose_row_product(const RowProblem& problem);
// The same where the architecture has nothing better.
RowPlan choose_row_product(const CudaArch& arch, const RowProblem& problem);

}  // namespace engine::cuda
