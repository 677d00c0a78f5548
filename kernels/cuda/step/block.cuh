// What the warps of a block of the step kernel share: the ring of slots that some fill and the
// others read, the partial sums of tiles, and the stages.
#pragma once

#include "kernels/cuda/device/bulk.cuh"
#include "kernels/cuda/device/mbarrier_ring.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/signal.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/step/control.h"
#include "kernels/cuda/step/program.h"

namespace engine::cuda {

inline constexpr int kStepPartials = 4;  // tiles whose sums may be waiting for their last warp

// An item of attention: query heads [head, head + heads) of key/value head `kv`, keys [begin, end).
struct AttentionItem {
  int index, unit, split, kv, head, heads, begin, end;
  int position;  // of this step
  int splits;    // of the unit
  int items;     // of the stage
};

// Where a warp that computes is: the stage, and the state of its StepConsumer. It outlives calls of
// functions here, and not in a register that they need or in local memory.
struct StepPlace {
  int index;
  unsigned state;
};

// It lies in shared memory whole: what a thread kept of it in local memory would fall out of the
// little L1 that the ring leaves.
struct alignas(128) StepShared {
  const StepStage* stages;  // (count)
  StepControl* control;
  float* partials;
  long long* timeline;
  std::uint16_t* exchange;  // this launch's bank
  char *slots, *x_area;     // the ring's memory, and that of x
  int count, slot_count, block, blocks;
  Mbarrier full[kStepMaxSlots], empty[kStepMaxSlots];
  Mbarrier taken[kStepPartials];
  Mbarrier routed, heard;  // a choice of experts is there; nobody fills by it any more
  // The sums of a tile, of each warp: int64 with int8 weights, else float.
  alignas(16) long long partial[kStepPartials][kStepWarps][kStepRows];
  std::uint16_t scales[kStepPartials][kStepRows];  // of the tile, with int8 weights
  std::uint8_t routes;                             // choices of experts so far
  alignas(16) StepStage stage[2];  // this one and the next, for the warps that compute
  alignas(16) StepStage fill_stage[kStepFillers][2];  // the same, for each warp that fills
  alignas(16) float reduce[kStepWarps];
  alignas(16) std::uint32_t reduce_max[kStepWarps];
  float unit, tiny;  // x = unit · tiny · (d₂ · 65536 + d₁ · 256 + d₀), with int8 weights
  float turns[kStepMaxTurns];  // cosines and sines of the position
  std::uint32_t parity, last;
  std::int32_t position;   // of the step's token, as it stands on the device
  bool stages_are_global;  // else they are the launch's own
  std::int32_t chosen[kStepMaxTopK];
  float share[kStepMaxTopK];
  AttentionItem item;  // of this block, once its q is there
  StepPlace places[kStepWarps];
  union {                                      // of the stage that uses it
    float logits[kStepMaxExperts];             // kMoeUp; or each warp's shares of them
    float open[kStepMaxOpenTiles][kStepRows];  // kMoeDown: sums over the experts so far
    struct {  // kAttention: q of the item, and this step's own key and value
      alignas(16) char queries[kStepHeadTile][2 * kStepMaxHeadSize];
      alignas(16) char own[2][2 * kStepMaxHeadSize];
    };
  };
};

// The dynamic shared memory of the block starts with it. (A reference handed to a function that is
// not inlined would be one to memory of any kind.)
__device__ inline StepShared& step_shared() {
  extern __shared__ __align__(128) char step_memory[];
  return *reinterpret_cast<StepShared*>(step_memory);
}
// threadIdx.x, read anew: what is worked out from it is not kept in memory across a call.
__device__ inline unsigned step_thread() {
  unsigned thread = 0;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}
// That of the calling warp, one of those that compute.
__device__ inline StepPlace& step_place(StepShared& b) { return b.places[step_thread() / 32]; }
__device__ inline const StepStage& present_stage(StepShared& b) {
  return b.stage[step_place(b).index % 2];
}

// A walk over the slots of the ring: the same sequence in the warps that fill and in those that
// read. Shared addresses.
struct StepRing {
  std::uint32_t slots, full, empty;
  int count, at = 0;
  unsigned phase = 0;

  __device__ explicit StepRing(const StepShared& b)
      : slots(shared_address(b.slots)),
        full(shared_address(b.full)),
        empty(shared_address(b.empty)),
        count(b.slot_count) {}
  __device__ std::uint32_t slot() const {
    return slots + static_cast<std::uint32_t>(at * kStepSlotBytes);
  }
  __device__ std::uint32_t slot_full() const {
    return full + static_cast<std::uint32_t>(at) * sizeof(Mbarrier);
  }
  __device__ std::uint32_t slot_empty() const {
    return empty + static_cast<std::uint32_t>(at) * sizeof(Mbarrier);
  }
  __device__ void advance(int by = 1) {
    for (at += by; at >= count; at -= count) phase ^= 1;
  }
  // By fewer slots than there are.
  __device__ void retreat(int by) {
    at -= by;
    if (at < 0) at += count, phase ^= 1;
  }
};

// A warp that computes, for the time of a function: it takes up its state and leaves it behind.
struct StepConsumer {
  StepRing ring;
  int warp, lane;
  int tiles;     // multiplied so far, over all stages, modulo kTilesRound
  int turn = 0;  // the group that has the next slot
  // After so many the warp that finishes, the partial sums used and their phase come again.
  static constexpr int kTilesRound = 2 * kStepPartials * kStepWarps;

  __device__ explicit StepConsumer(StepShared& b)
      : ring(b),
        warp(static_cast<int>(threadIdx.x) / 32),
        lane(static_cast<int>(threadIdx.x) % 32) {
    const unsigned state = step_place(b).state;
    tiles = static_cast<int>(state >> 16);
    ring.at = static_cast<int>(state & 0xff);
    ring.phase = state >> 8 & 1;
  }
  __device__ void leave(StepShared& b) const {
    __syncwarp();  // every lane has taken it up
    if (lane == 0) {
      step_place(b).state = static_cast<unsigned>(ring.at) | ring.phase << 8 |
                            static_cast<unsigned>(tiles % kTilesRound) << 16;
    }
    __syncwarp();
  }
  // The slots of one's own group: waited for, read and released, by each of its warps. Other
  // groups' are passed by, without a look.
  __device__ void wait_slot(const StepRing& own) const {
    mbarrier_wait(own.slot_full(), own.phase);
  }
  __device__ void release_slot(const StepRing& own) const {
    __syncwarp();  // every lane has read
    if (lane == 0) mbarrier_arrive(own.slot_empty());
  }
  // The place of this warp's group in the sequence that begins with the next slot: of
  // kStepGroups slots it has that one.
  __device__ int place_of_group() const {
    return static_cast<int>(static_cast<unsigned>(warp / kStepSlotWarps - turn) % kStepGroups);
  }
  // How many tiles are multiplied before the next that this warp finishes.
  __device__ int next_finished() const {
    return static_cast<int>(static_cast<unsigned>(warp - tiles) % kStepWarps);
  }
  __device__ void pass(int slots) {
    ring.advance(slots);
    turn = (turn + slots) % kStepGroups;
  }
};

// Named barriers of the warps that compute: all of them wait, or, from kStepSummedBarrier on, one
// waits for what the others leave: the sums of a tile in a buffer, or their shares of the logits.
inline constexpr int kStepConsumersBarrier = 1, kStepSummedBarrier = 2;
inline constexpr int kStepLogitsBarrier = kStepSummedBarrier + kStepPartials;
inline constexpr int kStepSquaresBarrier = kStepLogitsBarrier + 1;
__device__ inline void consumers_sync() {
  partial_barrier<kStepConsumersBarrier, kStepConsumers>();
}

// A warp begins to copy stage `index`; the caller waits for its copies, and synchronises.
__device__ inline void copy_stage(const StepShared& b, StepStage* to, int index, int lane) {
  constexpr int kVectors = static_cast<int>(sizeof(StepStage) / 16);
  static_assert(kVectors <= 32);
  if (lane < kVectors) {
    auto* target = reinterpret_cast<uint4*>(to) + lane;
    const auto* source = reinterpret_cast<const uint4*>(b.stages + index) + lane;
    if (b.stages_are_global) {
      cp_async_16(target, source, true);
    } else {
      store_vector(target, load_vector(source));
    }
  }
  cp_async_commit();
}

// A reading for the time line, where one is wanted. (By step_thread: which thread is the first
// would be kept in local memory throughout, and asked for there before a block can even begin.)
__device__ inline void stamp(StepShared& b, int which) {
  if (b.timeline != nullptr && step_thread() == 0) {
    const std::int64_t row = step_place(b).index;
    b.timeline[(row * b.blocks + b.block) * kStepStamps + which] = clock64();
  }
}

// The row of the weight that is row `r` of tile `tile`; at or past stage.rows (or of pairs past
// half) it does not exist.
__device__ inline int tile_row(const StepStage& stage, int tile, int r) {
  if (stage.half == 0) return tile * kStepRows + r;
  const int pair = tile * (kStepRows / 2) + r % 8;
  const int row =
      pair < stage.half ? pair : pair + step_quotient(pair, stage.per_half) * stage.half;
  return r < 8 ? row : row + stage.half;
}

// A tile of a stage: of which matrix, in kMoeUp of which chosen expert's gate and up, and which
// tile of that. Choices are few.
struct MatrixTile {
  int matrix = 0, tile;

  __device__ MatrixTile(const StepStage& stage, int of_stage) : tile(of_stage) {
    if (stage.kind != StepKind::kMoeUp) return;
    const int tiles = (stage.half + kStepRows / 2 - 1) / (kStepRows / 2);
    for (; tile >= tiles; tile -= tiles) ++matrix;
  }
};

// The position of this step's token, in the bounds of the cache.
__device__ inline int step_position(const StepShared& b, const StepStage& stage) {
  return max(0, min(b.position, stage.capacity - 1));
}

}  // namespace engine::cuda
