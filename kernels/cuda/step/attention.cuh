// Attention of one token over its cache, as a stage of the step kernel.
//
//   out[h] = Σ_j softmax_j(scale · q[h] · k[g, j]) v[g, j]
// Layout: q and out (H, Dh), caches (G, C, Dh) with adjacent rows. Keys and values of earlier
// positions come through the ring, so they stream while q is still being computed; those of this
// step's own position are read from the cache directly.
// Who computes what: a block has items of step_split, a range of keys for one or kStepHeadTile
// query heads. A warp takes 16 keys at a time, as the M of mma m16n8k16 for the scores (rows of K
// times columns of q) and as its K for the sums (columns of V times weights). Lane (g, t) = (lane
// / 4, lane % 4) has the scores of head t and two keys; a weight is split in two numbers of T, so
// that its product with V is good to 16 bits and more. Every warp keeps its own running maximum,
// total and sums, which are merged in a fixed order at the end: over the warps, and, where a unit
// has several splits, over those by the block that finishes last. Limit: the bytes of K and V.
#pragma once

#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/step/block.cuh"

namespace engine::cuda {

inline constexpr float kStepLog2e = 1.4426950408889634f;

// Item `index` of a step at `position`, whose keys start at `first`; plain arithmetic.
__device__ inline AttentionItem attention_item(const StepStage& stage, const StepSplit& split,
                                               int first, int position, int index) {
  AttentionItem item;
  const int group = stage.heads / stage.kv_heads;
  const int units_of_group = split.units / stage.kv_heads;
  item.unit = index / split.splits;
  item.split = index % split.splits;
  item.kv = item.unit / units_of_group;
  const int within = item.unit % units_of_group * split.head_tile;
  item.head = item.kv * group + within;
  item.heads = min(split.head_tile, group - within);
  item.begin = first + item.split * split.keys;
  item.end = min(item.begin + split.keys, position + 1);
  item.position = position;
  item.splits = split.splits;
  item.left = (split.units * split.splits - 1 - index);
  return item;
}

// The keys that the step's token sees: [first, position].
__device__ inline int first_key_of(const StepStage& stage, int position) {
  return stage.window > 0 ? max(0, position - stage.window + 1) : 0;
}

// What a warp knows of the keys it has seen, for heads of up to 32 · kBlocks elements.
template <typename T, int kBlocks>
struct AttentionState {
  static constexpr int kChunks = kBlocks / 2;  // of 8 elements, a lane
  int g, t;                                    // the lane: lane / 4 and lane % 4
  int row_bytes;                               // of a key
  uint4 q[kBlocks];  // B operands of the scores: column 2 h is head h, the others are empty
  float greatest = -INFINITY, total = 0.0f;  // of head t, in units of log 2; of this lane's keys
  // Head t, elements 8 (g + 8 c) + j (the sum of the first two) and + j + 4 (of the last two).
  float sum[kChunks][4][4] = {};
};

template <typename T, int kBlocks>
__device__ void load_queries(AttentionState<T, kBlocks>& s, const StepStage& stage,
                             const AttentionItem& item) {
  const bool has_head = s.g % 2 == 0 && s.g / 2 < item.heads;
  const T* q = static_cast<const T*>(stage.x) + (item.head + s.g / 2) * stage.q_head;
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    const int within = j * 64 + s.t * 16;
    s.q[j] = has_head && within < s.row_bytes
                 ? load_written(reinterpret_cast<const char*>(q) + within)
                 : make_uint4(0, 0, 0, 0);
  }
}

// The first of the two keys, of 16, whose scores a lane has; the other is the next. The order makes
// the four keys of a lane's k in the second product adjacent.
__device__ inline int lane_key(int g) { return g % 4 * 4 + g / 4 * 2; }

// Scores, in units of log 2, of 16 keys at shared address `rows`, four to a row of the ring's slot:
// of head t and the keys lane_key and lane_key + 1; −∞ where these are not below `keys`.
template <typename T, int kBlocks>
__device__ float2 scores_of(const AttentionState<T, kBlocks>& s, std::uint32_t rows, int keys,
                            float scale) {
  const std::uint32_t first =
      rows +
      static_cast<std::uint32_t>(s.g % 4 * kStepPitch + s.g / 4 * 2 * s.row_bytes + s.t * 16);
  const std::uint32_t second = first + static_cast<std::uint32_t>(s.row_bytes);
  const bool has_first = lane_key(s.g) < keys, has_second = lane_key(s.g) + 1 < keys;
  float low[4] = {}, high[4] = {};
#pragma unroll
  for (unsigned j = 0; j < kBlocks; ++j) {
    uint4 upper = make_uint4(0, 0, 0, 0), lower = upper;
    if (static_cast<int>(j) * 64 + s.t * 16 < s.row_bytes) {
      if (has_first) upper = load_shared(first + j * 64);
      if (has_second) lower = load_shared(second + j * 64);
    }
    mma_16816<T>(low, {upper.x, lower.x, upper.y, lower.y}, s.q[j].x, s.q[j].y);
    mma_16816<T>(high, {upper.z, lower.z, upper.w, lower.w}, s.q[j].z, s.q[j].w);
  }
  return make_float2(has_first ? (low[0] + high[0]) * scale : -INFINITY,
                     has_second ? (low[2] + high[2]) * scale : -INFINITY);
}

// B operands of the sums: columns 2 h and 2 h + 1 are the two parts of head h's weights.
struct WeightColumns {
  std::uint32_t b0, b1;
};

// Takes scores (scaled, −∞ where there is no key) into the running softmax.
template <typename T, int kBlocks>
__device__ WeightColumns take_scores(AttentionState<T, kBlocks>& s, float2 score) {
  float next = fmaxf(score.x, score.y);
#pragma unroll
  for (int offset = 4; offset < 32; offset *= 2) {
    next = fmaxf(next, __shfl_xor_sync(kFullWarp, next, offset));
  }
  next = fmaxf(next, s.greatest);
  const float reference = next == -INFINITY ? 0.0f : next;
  if (__any_sync(kFullWarp, next != s.greatest)) {
    const float factor = exp2f(s.greatest - reference);
    s.total *= factor;
#pragma unroll
    for (int i = 0; i < s.kChunks * 16; ++i) s.sum[i / 16][i / 4 % 4][i % 4] *= factor;
    s.greatest = next;
  }
  const float a = exp2f(score.x - reference), b = exp2f(score.y - reference);
  s.total += a + b;
  const std::uint32_t upper = pack_pair<T>(a, b);
  const std::uint32_t rest = pack_pair<T>(a - round_to<T>(a), b - round_to<T>(b));
  const int from = s.t * 4 + s.g / 2;
  const std::uint32_t upper0 = __shfl_sync(kFullWarp, upper, from),
                      rest0 = __shfl_sync(kFullWarp, rest, from),
                      upper1 = __shfl_sync(kFullWarp, upper, from + 16),
                      rest1 = __shfl_sync(kFullWarp, rest, from + 16);
  return s.g % 2 == 0 ? WeightColumns{upper0, upper1} : WeightColumns{rest0, rest1};
}

// Adds the values of 16 keys, of which the first `keys` exist, times their weights.
template <typename T, int kBlocks>
__device__ void add_values(AttentionState<T, kBlocks>& s, std::uint32_t rows, int keys,
                           WeightColumns weights) {
  const std::uint32_t first = rows + static_cast<std::uint32_t>(s.t * kStepPitch + s.g * 16);
#pragma unroll
  for (unsigned c = 0; c < s.kChunks; ++c) {
    uint4 value[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // what lies past the keys may be NaN
      const bool exists = s.t * 4 + i < keys && static_cast<int>(c) * 128 + s.g * 16 < s.row_bytes;
      value[i] = exists ? load_shared(first + c * 128 + static_cast<std::uint32_t>(i * s.row_bytes))
                        : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const unsigned pick = j % 2 == 0 ? 0x5410 : 0x7632;
      const auto pair = [&](uint4 a, uint4 b, bool later) {
        return __byte_perm(j < 2 ? (later ? a.z : a.x) : (later ? a.w : a.y),
                           j < 2 ? (later ? b.z : b.x) : (later ? b.w : b.y), pick);
      };
      mma_16816<T>(s.sum[c][j],
                   {pair(value[0], value[1], false), pair(value[0], value[1], true),
                    pair(value[2], value[3], false), pair(value[2], value[3], true)},
                   weights.b0, weights.b1);
    }
  }
}

// A warp asks for the key of this step's own position and its value, which another block may have
// written: into b.own, as the first of 16 keys.
template <typename T>
__device__ void fetch_own(StepShared& b, const StepStage& stage, const AttentionItem& item,
                          int lane) {
  const int element = lane % 16 * 8;
  if (element < stage.head_size) {
    const T* cache = static_cast<const T*>(lane < 16 ? stage.k : stage.v) +
                     item.kv * (lane < 16 ? stage.k_head : stage.v_head);
    cp_async_16(b.own[lane / 16] + element * 2,
                cache + static_cast<std::int64_t>(item.position) * stage.head_size + element, true);
  }
  cp_async_commit();
}

// All keys of an item that are this warp's: of every slot a quarter of the warps has 16 keys each,
// the next quarter those of the next slot, and so on; this step's own key comes last.
template <typename T, int kBlocks>
__device__ void attend_keys(StepConsumer& c, StepShared& b, AttentionState<T, kBlocks>& s,
                            const StepStage& stage, const AttentionItem& item) {
  constexpr int kChunksOfSlot = kStepSlotKeys / 16;
  const int streamed = max(0, min(item.end, item.position) - item.begin);
  const int slots = (streamed + kStepSlotKeys - 1) / kStepSlotKeys;
  const bool has_own = item.end > item.position;
  const float scale = stage.scale * kStepLog2e;
  if (has_own && c.warp == slots * kChunksOfSlot % kStepWarps) {
    fetch_own<T>(b, stage, item, c.lane);
  }
  for (int slot = 0; slot < slots + (has_own ? 1 : 0); ++slot) {
    const bool own = slot == slots;
    const int chunk = c.warp - slot * kChunksOfSlot % kStepWarps;
    const int keys = (own ? 1 : min(kStepSlotKeys, streamed - slot * kStepSlotKeys)) - chunk * 16;
    if (chunk < 0 || chunk >= kChunksOfSlot || keys <= 0) {
      if (!own) c.pass_slots(2);
      continue;
    }
    const auto skip = static_cast<std::uint32_t>(chunk * 4 * kStepPitch);
    if (own) {
      cp_async_wait<0>();
      __syncwarp();
    } else {
      c.wait_slot();
    }
    const float2 score =
        scores_of(s, own ? shared_address(b.own[0]) : c.ring.slot() + skip, keys, scale);
    if (!own) c.release_slot();
    const WeightColumns weights = take_scores(s, score);
    if (!own) c.wait_slot();
    add_values(s, own ? shared_address(b.own[1]) : c.ring.slot() + skip, keys, weights);
    if (!own) c.release_slot();
  }
}

// What a split leaves of one head for the block that joins them: sums (Dh), maximum, total.
__device__ inline float* split_record(const StepShared& b, const AttentionItem& item, int h,
                                      int split, int head_size) {
  return b.partials +
         ((item.unit * kStepHeadTile + h) * item.splits + split) * step_record_floats(head_size);
}

template <typename T>
__device__ void store_attended(const StepStage& stage, int head, int d, float sum, float total) {
  static_cast<T*>(stage.out)[head * stage.out_head + d] =
      from_f32<T>(total > 0.0f || isnan(total) ? __fdividef(sum, total) : 0.0f);
}

// A warp's records of the item's heads, the same in shared memory: at index head · kStepWarps +
// warp from `records` on.
template <typename T, int kBlocks>
__device__ void leave_records(const AttentionState<T, kBlocks>& s, std::uint32_t records, int heads,
                              int head_size, int warp) {
  float total = s.total;
#pragma unroll
  for (int offset = 4; offset < 32; offset *= 2) {
    total += __shfl_xor_sync(kFullWarp, total, offset);
  }
  if (s.t >= heads) return;
  const int width = step_record_floats(head_size) * 4;  // bytes
  const std::uint32_t record =
      records + static_cast<std::uint32_t>((s.t * kStepWarps + warp) * width);
#pragma unroll
  for (int c = 0; c < s.kChunks; ++c) {
    const int d = (s.g + 8 * c) * 8;
    if (d >= head_size) break;
    const auto& sum = s.sum[c];
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
      const auto joined = [&](int j) { return sum[j][2 * half] + sum[j][2 * half + 1]; };
      store_shared(record + static_cast<std::uint32_t>(d * 4) + half * 16,
                   make_float4(joined(0), joined(1), joined(2), joined(3)));
    }
  }
  if (s.g == 0) {
    store_shared(record + static_cast<std::uint32_t>(head_size * 4),
                 make_float4(s.greatest, total, 0.0f, 0.0f));
  }
}

// The warps' records of an item become results, or one record a head of this split. Every thread
// that computes calls, after the records are there; a warp takes 32 elements of a head.
template <typename T>
__device__ void merge_warps(StepShared& b, const StepStage& stage, const AttentionItem& item,
                            std::uint32_t records, int warp, int lane) {
  const int head_size = stage.head_size, groups = (head_size + 31) / 32;
  const auto width = static_cast<std::uint32_t>(step_record_floats(head_size) * 4);  // bytes
  for (int i = warp; i < item.heads * groups; i += kStepWarps) {
    const int h = i / groups, d = i % groups * 32 + lane;
    const std::uint32_t of_head = records + static_cast<std::uint32_t>(h * kStepWarps) * width;
    // Lane w % kStepWarps has the maximum and total of warp w.
    const std::uint32_t ends = of_head + static_cast<std::uint32_t>(lane % kStepWarps) * width +
                               static_cast<std::uint32_t>(head_size * 4);
    const float mine = load_shared_f32(ends), greatest = warp_max<kStepWarps>(mine);
    const float weight = exp2f(mine - (greatest == -INFINITY ? 0.0f : greatest));
    const float total = warp_sum<kStepWarps>(load_shared_f32(ends + 4) * weight);
    std::uint32_t at = of_head + static_cast<std::uint32_t>(min(d, head_size - 1) * 4);
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kStepWarps; ++w, at += width) {
      sum = fmaf(load_shared_f32(at), __shfl_sync(kFullWarp, weight, w), sum);
    }
    if (d >= head_size) continue;
    if (item.splits == 1) {
      store_attended<T>(stage, item.head + h, d, sum, total);
    } else {
      float* to = split_record(b, item, h, item.split, head_size);
      to[d] = sum;
      if (d == 0) to[head_size] = greatest, to[head_size + 1] = total;
    }
  }
}

// Joins the splits of a unit, if this block is the last to arrive with one. Every thread that
// computes calls.
template <typename T>
__device__ __noinline__ void join_splits(StepShared& b, const StepStage& stage,
                                         const AttentionItem& item) {
  const int tid = static_cast<int>(threadIdx.x), head_size = stage.head_size;
  consumers_sync();  // this split's records are written
  if (tid == 0) {
    std::uint32_t* done = b.control->units + item.unit;
    b.last = signal_exchange_add(done, 1) + 1 == static_cast<std::uint32_t>(item.splits);
    if (b.last) *done = 0;
  }
  consumers_sync();
  if (!b.last) return;
  const int width = step_record_floats(head_size);
#pragma unroll 1
  for (int i = tid; i < item.heads * head_size; i += kStepConsumers) {
    const int h = i / head_size, d = i % head_size;
    const float* first = split_record(b, item, h, 0, head_size);
    float greatest = -INFINITY, sum = 0.0f, total = 0.0f;
#pragma unroll 4
    for (int k = 0; k < item.splits; ++k) {
      greatest = fmaxf(greatest, __ldcg(first + k * width + head_size));
    }
    const float reference = greatest == -INFINITY ? 0.0f : greatest;
#pragma unroll 4
    for (int k = 0; k < item.splits; ++k) {
      const float* record = first + k * width;
      const float weight = exp2f(__ldcg(record + head_size) - reference);
      total = fmaf(__ldcg(record + head_size + 1), weight, total);
      sum = fmaf(__ldcg(record + d), weight, sum);
    }
    store_attended<T>(stage, item.head + h, d, sum, total);
  }
}

// The item b.item. Takes and returns the state of the warp.
template <typename T, int kBlocks>
__device__ __noinline__ unsigned run_attention_item(unsigned state, StepShared& b,
                                                    const StepStage& stage) {
  StepConsumer c(b, state);
  const AttentionItem& item = b.item;
  AttentionState<T, kBlocks> s;
  s.g = c.lane / 4;
  s.t = c.lane % 4;
  s.row_bytes = stage.head_size * static_cast<int>(sizeof(T));
  load_queries(s, stage, item);
  attend_keys(c, b, s, stage, item);
  const std::uint32_t records = shared_address(b.x_area);
  leave_records(s, records, item.heads, stage.head_size, c.warp);
  consumers_sync();  // every warp's records are there
  merge_warps<T>(b, stage, item, records, c.warp, c.lane);
  if (item.splits > 1) join_splits<T>(b, stage, item);
  consumers_sync();  // what was merged is written, `last` and the records are read
  if (threadIdx.x == 0 && (item.splits == 1 || b.last != 0)) {
    b.done += static_cast<std::uint32_t>(item.heads);
  }
  return c.state();
}

// All items of this block. What they are is known before the stage's dependency is met.
template <typename T>
__device__ unsigned run_attention(unsigned state, StepShared& b, const StepStage& stage,
                                  int index) {
  int i = step_first_tile(b.block, b.blocks, stage.rotation);
  const auto plan_item = [&] {  // by one thread
    const int position = step_position(stage), first = first_key_of(stage, position);
    const StepSplit split = step_split(position + 1 - first, stage.heads, stage.kv_heads, b.blocks);
    b.item = attention_item(stage, split, first, position, i);
  };
  if (threadIdx.x == 0) plan_item();
  await_stage(b, index);
  stamp(b, index, 1);
  int left = b.item.left;
  while (left >= 0) {
    state = stage.head_size <= 64 ? run_attention_item<T, 2>(state, b, stage)
                                  : run_attention_item<T, 4>(state, b, stage);
    left -= b.blocks;
    if (left < 0) break;
    i += b.blocks;
    if (threadIdx.x == 0) plan_item();
    consumers_sync();
  }
  return state;
}

}  // namespace engine::cuda
