// A decode step as data: what one persistent kernel (step/kernel.cu) runs, stage after stage.
//
// A stage is an op of ops.h at one token, or a half of one. What a later stage of the program reads
// of an earlier one goes through the exchange (step/exchange.cuh), element by element: a block that
// reads waits until all it reads is there, and nothing else waits. Weights need not, and are on
// their way long before. Stages are made by step/lower.cc, on the host, from recorded calls; they
// hold addresses and sizes alone, so that a program stays as it is while ids, position and routes
// change on the device. Plain data; the functions are pure and shared by host and device.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define ENGINE_STEP_FUNCTION __host__ __device__
#else
#define ENGINE_STEP_FUNCTION
#endif

namespace engine::cuda {

enum class StepKind : std::uint8_t {
  kEmbed,      // out = weight[ids[0]]
  kNorm,       // normed = rmsnorm(x), or x itself without a norm
  kProduct,    // x, perhaps through rmsnorm, times a weight
  kAttention,  // over the cache
  kMoeUp,      // rmsnorm, router, and gate and up of the experts chosen
  kMoeDown,    // down of the experts chosen, weighted sum, residual
};

// What becomes of the sums of a product.
enum class StepEpilogue : std::uint8_t {
  kStore,  // out = sum (+ residual)
  kRope,   // round, turn q and k, store q, append k and v
  kSilu,   // out = silu(round(gate)) · round(up)
};

struct alignas(16) StepStage {
  StepKind kind = StepKind::kProduct;
  StepEpilogue epilogue = StepEpilogue::kStore;
  bool int8_weight = false;   // else of the program's element type T
  bool by_eight = false;      // rows, and their scales, exist and are aligned by eights
  bool f32_out = false;       // kStore: out and residual are f32, else T
  bool stores_out = true;     // else a later stage overwrites out, and the exchange alone gets it
  bool begins_early = true;   // a product: warps take their first parts before x is there
  bool holds_router = false;  // kMoeUp: the warps that compute hold it before x is there
  // Tiles of kStepRows rows that the stage is cut into; block b has the one that step_first_tile
  // gives, and every step_stride-th from there. kEmbed and kNorm: 1. kAttention: 0.
  std::int32_t tiles = 0;
  std::int32_t rotation = 0;  // tiles of the stages before, modulo the blocks
  // Offsets in the exchange, in elements; negative: not there. Of out (kRope: q, k and v behind
  // each other; kNorm: of normed); of x; of the residual.
  std::int32_t exchange = -1, x_exchange = -1, residual_exchange = -1;
  std::int32_t columns = 0;  // K
  std::int32_t rows = 0;     // N; of an expert in a mixture
  std::int32_t half = 0;     // rows i and i + half are a pair of one tile; 0: rows in their order
  float eps = 0.0f;          // of the norm
  float per_column = 0.0f;   // 1 ÷ K

  const void* x = nullptr;                // (K) T; kMoeDown: (S, K)
  const void* norm = nullptr;             // (K) T: x comes in through rmsnorm; null: as it is
  void* normed = nullptr;                 // (K) T: where the normalised x is wanted, or null
  const void* weight = nullptr;           // (N, K)
  const std::uint16_t* scales = nullptr;  // (N) bf16, with int8_weight
  void* out = nullptr;                    // (N); kSilu: (pairs); kRope: q (H, Dh)
  const void* residual = nullptr;         // (N) or null

  const std::int32_t* ids = nullptr;      // kEmbed
  void *k = nullptr, *v = nullptr;        // (G, C, Dh), rows of a head adjacent
  std::int64_t k_head = 0, v_head = 0;    // elements from head to head of the cache
  std::int64_t q_head = 0, out_head = 0;  // elements from head to head of q and out
  // kStore: heads is that of the attention just before, whose blocks take one tile alone, or 0.
  std::int32_t heads = 0, kv_heads = 0, head_size = 0;
  std::int32_t group = 1;     // query heads of a key/value head
  std::int32_t capacity = 0;  // C
  std::int32_t window = 0;    // 0: none
  float scale = 0.0f;         // of the scores
  float per_half = 0.0f;      // 1 ÷ half

  const void* router = nullptr;         // (E, K) T
  std::int32_t experts = 0, top_k = 0;  // E, S
};

// What stages know of the position of the step's token, the same for all of a program.
struct StepPosition {
  const std::int32_t* position = nullptr;       // null: no stage asks
  const float* turns = nullptr;                 // (P, Dh) cos, then sin; null: no stage asks
  std::int64_t turns_stride = 0;                // from position to position
  std::int32_t turns_rows = 0, turns_size = 0;  // P, Dh
};

// Rows of a tile, the M of the tensor cores' product.
inline constexpr int kStepRows = 16;
// Warps that compute, and those that feed them: a warp issues its lanes' bulk copies one after the
// other, so it takes several to issue as fast as memory delivers.
inline constexpr int kStepWarps = 16;
inline constexpr int kStepFillers = 4;
inline constexpr int kStepConsumers = kStepWarps * 32;
// Vectors of eight elements of x that a thread holds at the most; so x has at most kStepMaxColumns.
inline constexpr int kStepHeldVectors = 8;
inline constexpr int kStepMaxColumns = kStepHeldVectors * 8 * kStepConsumers;
inline constexpr int kStepThreads = kStepConsumers + kStepFillers * 32;
// Warps that share a slot of the ring, each a part of its columns; meanwhile other groups of as
// many have the slots behind it. So a warp waits once for four times as much as if all shared every
// slot.
inline constexpr int kStepSlotWarps = 4;
inline constexpr int kStepGroups = kStepWarps / kStepSlotWarps;
// Bytes of a row in one slot of the ring, those of them that are a warp's, and those that all
// groups have multiplied when each has had a slot.
inline constexpr int kStepChunk = 1024;
inline constexpr int kStepPart = kStepChunk / kStepSlotWarps;
inline constexpr int kStepRound = kStepGroups * kStepChunk;
// Slots that may be on their way at a time. More would not raise the rate, only make every other
// access of the multiprocessor queue behind them.
inline constexpr int kStepInFlight = 3;
// An odd row in a slot lies 64 bytes off a multiple of 128 from the even one before it, so that the
// eight lanes of a phase, which read those two, meet no bank twice. Scales lie between the first
// two.
inline constexpr int kStepRowGap = 64, kStepRowPair = 2 * kStepChunk + kStepRowGap;
inline constexpr int kStepSlotBytes = kStepRows / 2 * kStepRowPair;
inline constexpr int kStepMaxSlots = 16;
// A group waits for a slot by the parity of its rounds, so it may not be a round ahead of what has
// arrived: its slot before is kStepGroups back, and all is there that is kStepInFlight behind that.
inline constexpr int kStepMinSlots = kStepGroups + kStepInFlight;
// The same where a group's slot before may be up to 2 · kStepGroups − 1 back; in a smaller ring the
// warps wait for each other in between.
inline constexpr int kStepFarSlots = 2 * kStepGroups - 1 + kStepInFlight;
// Digits of x, most of the experts that a token chooses, of experts, of stages, of tiles that a
// block sums up over several experts.
inline constexpr int kStepDigits = 3;
inline constexpr int kStepMaxTopK = 16;
inline constexpr int kStepMaxExperts = 256;
// Experts whose rows of the router fit the registers of the warps that compute, if x is a vector a
// thread.
inline constexpr int kStepHeldExperts = 8;
// Bytes of an expert's row of the router that goes through the ring, a slot for each group of warps
// (step/router.cuh), and those of them that are a group's.
inline constexpr int kStepRouterPart = 2 * kStepChunk;
inline constexpr int kStepRouterRow = kStepGroups * kStepRouterPart;
inline constexpr int kStepMaxStages = 1024;
inline constexpr int kStepMaxOpenTiles = 16;
// Query heads that share one pass over keys and values.
inline constexpr int kStepHeadTile = 4;
// Cosines and sines of a position, at the most.
inline constexpr int kStepMaxTurns = 128;
inline constexpr int kStepMaxHeadSize = kStepChunk / 4 / 2;  // four keys are a row of a slot
// Units of attention (groups of query heads) whose splits are counted.
inline constexpr int kStepMaxUnits = 1024;

// n ÷ d, rounded down, by `per` = 1 ÷ d; exact below kStepMaxDivided, since what two roundings add
// to (n + ½) ÷ d is then less than ½ ÷ d.
inline constexpr int kStepMaxDivided = 1 << 21;
ENGINE_STEP_FUNCTION inline int step_quotient(int n, float per) {
  return static_cast<int>((static_cast<float>(n) + 0.5f) * per);
}

// Where row `r` of a slot begins in it.
ENGINE_STEP_FUNCTION inline int step_row_place(int r) {
  return (r >> 1) * kStepRowPair + (r & 1) * (kStepChunk + kStepRowGap);
}

// Shared memory of x: its elements, and the planes of its digits, 64 bytes off a multiple of 128
// apart, so that two planes meet no bank twice.
ENGINE_STEP_FUNCTION inline int step_align(int bytes) { return (bytes + 127) / 128 * 128; }
ENGINE_STEP_FUNCTION inline int step_plane_bytes(int columns) { return step_align(columns) + 64; }

// The first tile of block `block` of `blocks`.
ENGINE_STEP_FUNCTION inline int step_first_tile(int block, int blocks, int rotation) {
  const int first = block - rotation;
  return first < 0 ? first + blocks : first;
}

// From one of a block's tiles to its next. Blocks that have just had an item of attention are late
// for the product behind it, so they have one tile of it and the others the rest.
ENGINE_STEP_FUNCTION inline int step_stride(const StepStage& stage, int first, int blocks) {
  const bool behind_attention =
      stage.kind == StepKind::kProduct && stage.epilogue == StepEpilogue::kStore && stage.heads > 0;
  if (!behind_attention) return blocks;
  return first < stage.heads ? stage.tiles : blocks - stage.heads;
}

// Keys, or values, that a slot of the ring holds: four to each of its rows.
inline constexpr int kStepSlotKeys = 4 * kStepRows;

// Floats of what a warp, or a split, leaves of one head: sums (Dh), maximum, total, two of padding.
ENGINE_STEP_FUNCTION inline int step_record_floats(int head_size) { return head_size + 4; }

// How attention over `keys` keys is shared out: items (unit, split), a unit being query heads of
// one key/value head. It depends on the number of keys, not on the bound of a recorded step.
struct StepSplit {
  int head_tile;       // query heads of a unit at the most: 1 or kStepHeadTile
  int units_of_group;  // of the query heads of one key/value head
  int units;           // G × units of a group
  int splits;          // of the keys of a unit, none empty
  int keys;            // of a split, but for the last
};

// `group` is the number of query heads of a key/value head. A division costs more than all else
// here, so a short cache needs none.
ENGINE_STEP_FUNCTION inline StepSplit step_split(int keys, int group, int kv_heads, int blocks) {
  StepSplit split{};
  // A short cache is read anew by every query head (from L2), so that more blocks work at once.
  split.head_tile = group == 1 || keys <= 512 ? 1 : kStepHeadTile;
  split.units_of_group = split.head_tile == 1 ? group : (group + kStepHeadTile - 1) / kStepHeadTile;
  split.units = kv_heads * split.units_of_group;
  constexpr int kLeast = 256;  // keys of a split, where there are as many
  int splits = 1;
  split.keys = keys;
  if (keys > kLeast) {
    const int wanted = (keys + kLeast - 1) / kLeast, most = blocks / split.units;
    splits = wanted < most ? wanted : most > 1 ? most : 1;
    split.keys = (keys + splits - 1) / splits;
  }
  split.keys = (split.keys + kStepSlotKeys - 1) / kStepSlotKeys * kStepSlotKeys;
  split.splits = splits == 1 ? 1 : (keys + split.keys - 1) / split.keys;
  return split;
}

}  // namespace engine::cuda
