// A tile of a product: 16 rows of a weight, streamed through the ring, times x in shared memory.
//
// A lane's 16 bytes of a row are, as they are, the four A operands of one mma m16n8k16 (or m16n8k32
// of int8): words 0 and 2 as row g of A, words 1 and 3 as its row g + 8. So an mma multiplies eight
// rows, and B has two columns for x: even ones hold the words of x that meet words 0 and 2, odd
// ones those that meet 1 and 3; the sum of a row is c0 (row g, an even column) plus c3 (row g + 8,
// the odd one beside it). With int8 weights the three digits of x are three such pairs of columns,
// and lane (g, d) has the sum of digit d; other columns hold copies, whose sums nobody reads. The
// order in which the elements of K meet is free as long as both sides agree, so rows stay as the
// checkpoint has them, nothing is converted and no register is moved.
// A group of four warps takes a slot, each 256 bytes of every row, and the next group the next
// slot. The warps' sums are added, in the order of the slots, by one of them, which changes from
// tile to tile and then finishes the rows. int8: the int32 sums are exact, and so is their total;
// it is rounded once. The scales of a tile come with its first slot, behind the first row.
#pragma once

#include <type_traits>

#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/mma_int8.cuh"
#include "kernels/cuda/step/operand.cuh"

namespace engine::cuda {

template <typename T>
__device__ void multiply(float (&sums)[4], uint4 row, uint2 x) {
  mma_16816<T>(sums, {row.x, row.y, row.z, row.w}, x.x, x.y);
}
template <typename T>
__device__ void multiply(int (&sums)[4], uint4 row, uint2 x) {
  mma_16832(sums, {row.x, row.y, row.z, row.w}, x.x, x.y);
}

// A lane's sums of the warp's part of rows g and g + 8 of a tile: of its digit, with int8 weights.
template <typename Sum>
struct TileSums {
  Sum upper[4] = {}, lower[4] = {};
  unsigned scale = 0;  // int8: bits of that of row lane % 16, in the group that has the first slot
};

// A warp's part of one slot, in registers.
template <typename Sum>
struct SlotPart {
  static constexpr int kSteps = kStepPart / 64;
  uint4 upper[kSteps], lower[kSteps];
  unsigned scale = 0;  // as TileSums has it

  // Where a lane's part of a slot begins, and within a row.
  __device__ static int within() {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    return warp % kStepSlotWarps * kStepPart + lane % 4 * 16;
  }
  __device__ static std::uint32_t lane_place() {
    return static_cast<std::uint32_t>(step_row_place(static_cast<int>(threadIdx.x) % 32 / 4) +
                                      within());
  }
  // From the slot at `slot`, which has arrived.
  __device__ void take(std::uint32_t slot, bool begins_tile) {
    if (begins_tile) take_scale(slot);
    const std::uint32_t place = slot + lane_place();
#pragma unroll
    for (unsigned i = 0; i < kSteps; ++i) {
      upper[i] = load_shared(place + i * 64);
      lower[i] = load_shared(place + step_row_place(8) + i * 64);
    }
  }
  __device__ void take_scale(std::uint32_t slot) {
    if (std::is_same_v<Sum, int>) {
      scale = load_shared_u16(slot + kStepChunk + threadIdx.x % kStepRows * 2);
    }
  }
};

// The warp's part of one slot times x, of which the lane's column begins at `x`.
template <typename T, typename Sum>
__device__ void multiply_slot(TileSums<Sum>& sums, const SlotPart<Sum>& part, std::uint32_t x) {
#pragma unroll
  for (unsigned i = 0; i < part.kSteps; ++i) {
    const uint2 value = load_shared_pair(x + i * 64);
    multiply<T>(sums.upper, part.upper[i], value);
    multiply<T>(sums.lower, part.lower[i], value);
  }
}
// The same of a slot whose lane begins at `place`, where only the first `bytes` from there on
// exist; past them there may be NaN.
template <typename T, typename Sum>
__device__ void multiply_some(TileSums<Sum>& sums, std::uint32_t place, std::uint32_t x,
                              int bytes) {
#pragma unroll 1
  for (int k = 0; k < kStepPart; k += 64) {
    uint4 upper = make_uint4(0, 0, 0, 0), lower = upper;
    uint2 value = make_uint2(0, 0);
    if (k < bytes) {
      const auto skip = static_cast<std::uint32_t>(k);
      upper = load_shared(place + skip);
      lower = load_shared(place + step_row_place(8) + skip);
      value = load_shared_pair(x + skip);
    }
    multiply<T>(sums.upper, upper, value);
    multiply<T>(sums.lower, lower, value);
  }
}

// The warp's part of one tile, whose slots from `first` on, every kStepGroups-th, are its group's,
// the first kBegun of them in `sums` already; `x` is the lane's column, at a shared address.
template <typename T, int kBegun, typename Sum>
__device__ void multiply_tile(const StepConsumer& c, std::uint32_t x, int row_bytes, int first,
                              TileSums<Sum>& sums) {
  StepRing own = c.ring;
  own.advance(first + kBegun * kStepGroups);
  int k = (first + kBegun * kStepGroups) * kStepChunk;
  for (; k < row_bytes; k += kStepRound) {
    const std::uint32_t column = x + static_cast<std::uint32_t>(k);
    SlotPart<Sum> part;
    c.wait_slot(own);
    if (k + kStepChunk <= row_bytes) {
      part.take(own.slot(), k == 0);
      c.release_slot(own);
      multiply_slot<T>(sums, part, column);
    } else {
      if (k == 0) part.take_scale(own.slot());
      multiply_some<T>(sums, own.slot() + part.lane_place(), column, row_bytes - k - part.within());
      c.release_slot(own);
    }
    if (k == 0) sums.scale = part.scale;
    own.advance(kStepGroups);
  }
}

// The warp leaves its sums of rows g and g + 8 for the warp that adds them up.
__device__ inline void leave_sums(const TileSums<float>& sums, long long (*partial)[kStepRows],
                                  int warp, int lane) {
  if (lane % 4 != 0) return;
  auto* rows = reinterpret_cast<float*>(partial[warp]);
  rows[lane / 4] = sums.upper[0] + sums.upper[3];
  rows[lane / 4 + 8] = sums.lower[0] + sums.lower[3];
}
__device__ inline void leave_sums(const TileSums<int>& sums, long long (*partial)[kStepRows],
                                  int warp, int lane) {
  const int upper = sums.upper[0] + sums.upper[3], lower = sums.lower[0] + sums.lower[3];
  const int upper1 = __shfl_down_sync(kFullWarp, upper, 1),
            upper2 = __shfl_down_sync(kFullWarp, upper, 2),
            lower1 = __shfl_down_sync(kFullWarp, lower, 1),
            lower2 = __shfl_down_sync(kFullWarp, lower, 2);
  if (lane % 4 != 0) return;
  const auto joined = [](int d0, int d1, int d2) { return d0 + 256ll * d1 + 65536ll * d2; };
  partial[warp][lane / 4] = joined(upper, upper1, upper2);
  partial[warp][lane / 4 + 8] = joined(lower, lower1, lower2);
}

// Lane l gets the total of row l % 16.
__device__ inline float total_of(float, const long long (*partial)[kStepRows], int lane) {
  float total = 0.0f;
#pragma unroll
  for (int w = 0; w < kStepWarps / 2; ++w) {
    total += reinterpret_cast<const float*>(partial[lane / 16 * (kStepWarps / 2) + w])[lane % 16];
  }
  return total + __shfl_xor_sync(kFullWarp, total, 16);
}
__device__ inline float total_of(int, const long long (*partial)[kStepRows], int lane) {
  long long total = 0;
#pragma unroll
  for (int w = 0; w < kStepWarps / 2; ++w) {
    total += partial[lane / 16 * (kStepWarps / 2) + w][lane % 16];
  }
  return static_cast<float>(total + __shfl_xor_sync(kFullWarp, total, 16));
}

// What the warp that finishes a tile fetches, and works out, before the sums are there, so that
// after them comes nothing but arithmetic and stores. Of row lane % kStepRows, or of the pair.
struct TileFinish {
  unsigned short* exchange = nullptr;  // where the result goes for later stages; null: nowhere
  void* out = nullptr;                 // and where it is stored, or null
  float residual = 0.0f;               // f32_out; kRope: the sine, with the sign it has here
  float cosine = 1.0f;
  unsigned short residual_half = 0;  // bits of T, as stored, so that nothing waits for them
  bool turns = false;
};

// kRope: a pair of q or k is turned, and stored, or v, where it belongs. Lane r < 8 has the first
// of pair r, lane r + 8 its second.
template <typename T>
__device__ TileFinish fetch_rope(const StepShared& b, const StepStage& stage, int row, int lane) {
  TileFinish finish;
  const int head = step_quotient(row, stage.per_half * 0.5f), d = row - head * stage.head_size;
  if (head < stage.heads + stage.kv_heads) {
    const int pair = lane < 8 ? d : d - stage.half;
    finish.turns = true;
    finish.cosine = b.turns[pair];
    finish.residual = lane < 8 ? -b.turns[pair + stage.half] : b.turns[pair + stage.half];
  }
  if (lane >= kStepRows) return finish;
  if (stage.exchange >= 0) finish.exchange = b.exchange + stage.exchange + row;
  if (head < stage.heads) {
    if (stage.stores_out) finish.out = static_cast<T*>(stage.out) + head * stage.q_head + d;
  } else if (b.position >= 0 && b.position < stage.capacity) {  // rows past it are not written
    const bool is_key = head < stage.heads + stage.kv_heads;
    const int group = head - stage.heads - (is_key ? 0 : stage.kv_heads);
    finish.out = (is_key ? static_cast<T*>(stage.k) + group * stage.k_head
                         : static_cast<T*>(stage.v) + group * stage.v_head) +
                 static_cast<std::int64_t>(b.position) * stage.head_size + d;
  }
  return finish;
}

// `first` is the element of out where the tile's matrix starts.
template <typename T>
__device__ TileFinish fetch_finish(const StepShared& b, const StepStage& stage, int tile, int first,
                                   int lane) {
  const int row = tile_row(stage, tile, lane % kStepRows);
  TileFinish finish;
  if (row >= stage.rows) return finish;
  if (stage.epilogue == StepEpilogue::kRope) return fetch_rope<T>(b, stage, row, lane);
  const int rows = stage.epilogue == StepEpilogue::kSilu ? kStepRows / 2 : kStepRows;
  if (lane >= rows) return finish;
  if (stage.f32_out) {
    finish.out = static_cast<float*>(stage.out) + row;
    if (stage.residual != nullptr) {
      finish.residual = __ldcg(static_cast<const float*>(stage.residual) + row);
    }
    return finish;
  }
  if (stage.exchange >= 0) finish.exchange = b.exchange + stage.exchange + first + row;
  if (stage.stores_out) finish.out = static_cast<T*>(stage.out) + first + row;
  if (stage.epilogue == StepEpilogue::kSilu || stage.residual == nullptr) return finish;
  finish.residual_half = stage.residual_exchange >= 0
                             ? load_relaxed(b.exchange + stage.residual_exchange + row)
                             : __ldcg(static_cast<const unsigned short*>(stage.residual) + row);
  return finish;
}

template <typename T>
__device__ void put(const TileFinish& finish, T value) {
  if (finish.exchange != nullptr) store_relaxed(finish.exchange, present_bits(value));
  if (finish.out != nullptr) *static_cast<T*>(finish.out) = value;
}

// The sums of a tile become results; `value` is the sum of row lane % 16, scaled. Lanes without a
// row have nowhere to store.
template <typename T>
__device__ void finish_tile(const StepShared& b, const StepStage& stage, float value,
                            TileFinish finish, int tile, int lane) {
  if (stage.epilogue == StepEpilogue::kRope) {
    const float mine = round_to<T>(value), other = __shfl_xor_sync(kFullWarp, mine, 8);
    const float turned = mine * finish.cosine + other * finish.residual;
    return put(finish, from_f32<T>(finish.turns ? turned : mine));
  }
  if (stage.epilogue == StepEpilogue::kSilu) {
    const float mine = round_to<T>(value), up = __shfl_xor_sync(kFullWarp, mine, 8);
    return put(finish, from_f32<T>(__fdividef(mine, 1.0f + __expf(-mine)) * up));
  }
  if (stage.f32_out) {
    if (finish.out != nullptr) *static_cast<float*>(finish.out) = value + finish.residual;
    return;
  }
  if (finish.residual_half == kStepAbsent && stage.residual_exchange >= 0) {
    const int row = tile_row(stage, tile, lane % kStepRows);
    finish.residual_half = await_element(b, stage.residual_exchange + row);
  }
  const T residual = *reinterpret_cast<const T*>(&finish.residual_half);
  put(finish, from_f32<T>(value + to_f32(residual)));
}

// All warps multiply a tile, of which the first kBegun slots of each group are in `sums`; one of
// them, the one that StepConsumer::next_finished names, calls done(total of row lane % 16, scaled)
// at the end.
template <typename T, int kBegun, typename Sum, typename Done>
__device__ void run_tile(StepConsumer& c, StepShared& b, std::uint32_t x, int row_bytes,
                         TileSums<Sum> sums, Done done) {
  const int buffer = c.tiles % kStepPartials;
  const unsigned phase = static_cast<unsigned>(c.tiles / kStepPartials) & 1;
  const bool finishes = c.next_finished() == 0;
  ++c.tiles;
  const int first = c.place_of_group(), part = first * kStepSlotWarps + c.warp % kStepSlotWarps;
  multiply_tile<T, kBegun>(c, x, row_bytes, first, sums);
  c.pass((row_bytes + kStepChunk - 1) / kStepChunk);
  mbarrier_wait(shared_address(&b.taken[buffer]),
                phase ^ 1);  // the sums that were here are used up
  leave_sums(sums, b.partial[buffer], part, c.lane);
  if (std::is_same_v<Sum, int> && part == 0 && c.lane < kStepRows) {
    b.scales[buffer][c.lane] = static_cast<std::uint16_t>(sums.scale);
  }
  const int summed = kStepSummedBarrier + buffer;  // all sums of the buffer are there
  __syncwarp();
  if (!finishes) return named_barrier_arrive(summed, kStepConsumers);
  named_barrier_sync(summed, kStepConsumers);
  float total = total_of(Sum{}, b.partial[buffer], c.lane);
  if constexpr (std::is_same_v<Sum, int>) {
    const std::uint32_t scale = b.scales[buffer][c.lane % kStepRows];  // bf16
    total = total * b.unit * b.tiny * __uint_as_float(scale << 16);
  }
  __syncwarp();
  mbarrier_arrive(shared_address(&b.taken[buffer]));
  done(total);
}

// The lane's column of x: the shared address of what meets its first 16 bytes of a row.
template <typename T, typename Sum>
__device__ std::uint32_t operand_column(const StepOperand<T>& operand) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int column = lane / 4;
  const int within = warp % kStepSlotWarps * kStepPart + lane % 4 * 16 + column % 2 * 8;
  std::uint32_t base = operand.values;
  if constexpr (std::is_same_v<Sum, int>) {
    base = operand.digits +
           static_cast<std::uint32_t>(min(column / 2, kStepDigits - 1)) * operand.plane;
  }
  return base + static_cast<std::uint32_t>(within);
}

// The warp's parts of the first kSlots slots of a tile that are its group's, taken into registers
// before x is there, so that the ring goes on filling by as many slots for every group. It keeps no
// more than it needs: registers are short where x is prepared.
template <typename Sum, int kSlots>
struct FirstParts {
  SlotPart<Sum> part[kSlots];
  std::uint32_t column;  // of x that meets the first

  __device__ explicit FirstParts(const StepConsumer& c)
      : column(static_cast<std::uint32_t>(c.place_of_group() * kStepChunk)) {}
  // Where slot `i` of them is.
  __device__ static StepRing place(int i) {
    const StepConsumer c(step_shared());
    StepRing own = c.ring;
    own.advance(c.place_of_group() + i * kStepGroups);
    return own;
  }
  // Takes part `i` when it or x is there; every lane of the warp calls.
  template <typename Operand>
  __device__ void take(int i, Operand& x) {
    const StepRing own = place(i);
    x.await([&] { return __any_sync(kFullWarp, mbarrier_test_wait(own.slot_full(), own.phase)); });
    mbarrier_wait(own.slot_full(), own.phase);
    part[i].take(own.slot(), i == 0 && column == 0);
    __syncwarp();  // every lane has read
    if (threadIdx.x % 32 == 0) mbarrier_arrive(own.slot_empty());
  }
  // Times x, of which the lane's column begins at `x`.
  template <typename T>
  __device__ TileSums<Sum> times(std::uint32_t x) const {
    TileSums<Sum> sums;
#pragma unroll
    for (unsigned i = 0; i < kSlots; ++i) {
      multiply_slot<T>(sums, part[i], x + column + i * kStepRound);
    }
    sums.scale = part[0].scale;
    return sums;
  }
};

// Bytes of a row of the weight.
template <typename T, typename Sum>
__device__ int product_row_bytes(const StepStage& stage) {
  return stage.columns * static_cast<int>(std::is_same_v<Sum, int> ? 1 : sizeof(T));
}

// Slots of each group that are taken early, at the most: of int8 weights two were slower.
template <typename Sum>
inline constexpr int kMostEarly = std::is_same_v<Sum, int> ? 1 : 2;

// Slots of each group of a stage that are taken early, all of whole parts.
template <typename T, typename Sum>
__device__ int early_slots(const StepStage& stage) {
  const int row_bytes = product_row_bytes<T, Sum>(stage);
  if (!stage.begins_early || row_bytes < kStepRound) return 0;
  return min(kMostEarly<Sum>, row_bytes / kStepRound);
}

// x, of up to kHeld vectors a thread, as prepare_operand does it, and the warp's first kEarly parts
// of the stage times x. A part is taken when it or x is there, and so, at the latest, before x is
// prepared: one that might be missing until then would be kept in memory by the compiler, and
// barriers in two branches are not for a block's warps. `column` is the lane's of x.
template <typename T, typename Sum, int kHeld, bool kNormed, int kEarly>
__device__ TileSums<Sum> prepare_and_begin(StepShared& b, const StepStage& stage,
                                           std::uint32_t column) {
  constexpr bool kInt8 = std::is_same_v<Sum, int>;
  OperandVectors<T, kHeld, kNormed> x(b, stage, 0);
  const auto complete = [&] {
    x.await([] { return false; });
    stamp(b, 1);
    x.template store<kInt8>(b, stage, x.template normalise<kInt8>(b, stage));
  };
  if constexpr (kEarly > 0) {
    FirstParts<Sum, kEarly> first{StepConsumer(b)};
#pragma unroll
    for (int i = 0; i < kEarly; ++i) first.take(i, x);
    complete();
    return first.template times<T>(column);
  } else {
    complete();
    return {};
  }
}

// The tiles of this block in a stage of kind kProduct or kMoeUp, and what becomes of them. Where a
// result goes takes as long to find out as a tile takes to multiply, by one warp with all others
// waiting; so a warp works it out when it has finished the tile before, and for its first one when
// this comes about: before x is there.
template <typename T>
struct ProductTiles {
  StepShared& b;
  const StepStage& stage;
  int tiles, tile, stride, lane;
  int mine;           // the next that this warp finishes
  TileFinish finish;  // of that one

  __device__ ProductTiles(StepShared& block, const StepStage& of, const StepConsumer& c)
      : b(block),
        stage(of),
        tiles(of.tiles),
        tile(step_first_tile(block.block, block.blocks, of.rotation)),
        stride(step_stride(of, tile, block.blocks)),
        lane(c.lane),
        mine(tile + c.next_finished() * stride) {
    fetch();
  }
  __device__ bool left() const { return tile < tiles; }
  __device__ void fetch() {
    finish = TileFinish{};
    if (mine >= tiles) return;
    const MatrixTile at(stage, mine);
    finish = fetch_finish<T>(b, stage, at.tile, at.matrix * stage.half, lane);
  }
  // The tile that is this warp's is done, with `total` the sum of row lane % kStepRows, scaled.
  __device__ void finish_one(float total) {
    finish_tile<T>(b, stage, total, finish, mine, lane);
    mine += kStepWarps * stride;
    fetch();
  }
  // The next tile, of which the first kBegun slots of each group are in `sums`; `x` is the lane's
  // column.
  template <int kBegun, typename Sum>
  __device__ void run(StepConsumer& c, std::uint32_t x, int row_bytes, const TileSums<Sum>& sums) {
    run_tile<T, kBegun>(c, b, x, row_bytes, sums, [&](float total) { finish_one(total); });
    next();
  }
  __device__ void next() { tile += stride; }
};

// All tiles of this block in a stage of kind kProduct or kMoeUp, whose x is ready.
template <typename T, typename Sum>
__device__ __noinline__ void run_product() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  StepConsumer c(b);
  const std::uint32_t x = operand_column<T, Sum>(StepOperand<T>(b, stage));
  const int row_bytes = product_row_bytes<T, Sum>(stage);
  ProductTiles<T> tiles(b, stage, c);
  while (tiles.left()) tiles.template run<0>(c, x, row_bytes, TileSums<Sum>{});
  c.leave(b);
}

// The same with x, of up to kHeld vectors a thread, prepared here. With more than one of them
// or of the parts, where results go is worked out behind x: there is no room for it before.
template <typename T, typename Sum, int kHeld, bool kNormed, int kEarly>
__device__ __noinline__ void prepare_and_run() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  const std::uint32_t x = operand_column<T, Sum>(StepOperand<T>(b, stage));
  const auto run = [&](ProductTiles<T>& tiles, const TileSums<Sum>& begun) {
    stamp(b, 2);
    StepConsumer c(b);
    const int row_bytes = product_row_bytes<T, Sum>(stage);
    if constexpr (kEarly > 0) tiles.template run<kEarly>(c, x, row_bytes, begun);
    while (tiles.left()) tiles.template run<0>(c, x, row_bytes, TileSums<Sum>{});
    c.leave(b);
  };
  const auto prepare = [&] {
    return prepare_and_begin<T, Sum, kHeld, kNormed, kEarly>(b, stage, x);
  };
  if constexpr (kHeld * kEarly > 1) {
    const TileSums<Sum> begun = prepare();
    ProductTiles<T> tiles(b, stage, StepConsumer(b));
    run(tiles, begun);
  } else {
    ProductTiles<T> tiles(b, stage, StepConsumer(b));
    run(tiles, prepare());
  }
}

// prepare_and_run of one vector a thread, with `early` parts (early_slots).
template <typename T, typename Sum, bool kNormed>
__device__ void prepare_and_run_vector(int early) {
  if constexpr (kMostEarly<Sum> == 2) {
    if (early == 2) return prepare_and_run<T, Sum, 1, kNormed, 2>();
  }
  early > 0 ? prepare_and_run<T, Sum, 1, kNormed, 1>() : prepare_and_run<T, Sum, 1, kNormed, 0>();
}

// A stage of kind kProduct.
template <typename T, typename Sum>
__device__ void run_product_stage(const StepStage& stage) {
  const bool normed = stage.norm != nullptr;
  const int early = early_slots<T, Sum>(stage);
  if (stage.columns <= kStepConsumers * 8) {
    return normed ? prepare_and_run_vector<T, Sum, true>(early)
                  : prepare_and_run_vector<T, Sum, false>(early);
  }
  if (early > 0 && stage.columns <= kStepConsumers * 32 && !normed) {
    return prepare_and_run<T, Sum, 4, false, kMostEarly<Sum>>();
  }
  prepare_operand<T>(stage, 0);
  stamp(step_shared(), 2);
  run_product<T, Sum>();
}

}  // namespace engine::cuda
