// Attention of one token over its cache, as a stage of the step kernel.
//
//   out[h] = Σ_j softmax_j(scale · q[h] · k[g, j]) v[g, j]
// Layout: q and out (H, Dh), caches (G, C, Dh) with adjacent rows. Keys and values of earlier
// positions come through the ring, so they stream while q is still being computed; those of this
// step's own position come as q does: from the exchange, or, by itself, from where they lie.
// Who computes what: a block has items of step_split, a range of keys for one or kStepHeadTile
// query heads. A warp takes 16 keys at a time: for the scores as the rows of two mma m16n8k16, as
// in step/product.cuh, times columns of q; for the sums as their K, columns of V times weights.
// Lane (g, t) = (lane / 4, lane % 4) has the scores of head t and two keys; a weight is split in
// two numbers of T, so that its product with V is good to 16 bits and more. Every warp keeps its
// own running maximum, total and sums, which are merged in a fixed order at the end: over the
// warps, and, where a unit has several splits, over those by the block that finishes last. Of a
// short item, 16 keys a warp at the most, K and V are in registers before q is there. Limit: the
// bytes of K and V.
#pragma once

#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/step/operand.cuh"

namespace engine::cuda {

inline constexpr float kStepLog2e = 1.4426950408889634f;

// Item `index` of a step at `position`, whose keys start at `first`; plain arithmetic.
__device__ inline AttentionItem attention_item(const StepStage& stage, const StepSplit& split,
                                               int first, int position, int index) {
  AttentionItem item;
  item.index = index;
  item.unit = split.splits == 1 ? index : index / split.splits;
  item.split = index - item.unit * split.splits;
  const float per_unit = __fdividef(1.0f, static_cast<float>(split.units_of_group));
  item.kv = step_quotient(item.unit, per_unit);
  const int within = (item.unit - item.kv * split.units_of_group) * split.head_tile;
  item.head = item.kv * stage.group + within;
  item.heads = min(split.head_tile, stage.group - within);
  item.begin = first + item.split * split.keys;
  item.end = min(item.begin + split.keys, position + 1);
  item.position = position;
  item.splits = split.splits;
  item.items = split.units * split.splits;
  return item;
}

// Keys of an item that come through the ring: all but this step's own.
__device__ inline int ring_keys(const AttentionItem& item) {
  return max(0, min(item.end, item.position) - item.begin);
}

// The keys that the step's token sees: [first, position].
__device__ inline int first_key_of(const StepStage& stage, int position) {
  return stage.window > 0 ? max(0, position - stage.window + 1) : 0;
}

// How the step's attention is shared out, and how many items that makes.
__device__ inline StepSplit attention_split(const StepShared& b, const StepStage& stage) {
  const int position = step_position(b, stage), first = first_key_of(stage, position);
  return step_split(position + 1 - first, stage.group, stage.kv_heads, b.blocks);
}
__device__ inline int attention_items(const StepShared& b, const StepStage& stage) {
  const StepSplit split = attention_split(b, stage);
  return split.units * split.splits;
}
__device__ inline AttentionItem attention_item(const StepShared& b, const StepStage& stage,
                                               int index) {
  const int position = step_position(b, stage);
  return attention_item(stage, attention_split(b, stage), first_key_of(stage, position), position,
                        index);
}

// What a warp knows of the keys it has seen. Heads have up to 32 · kBlocks elements, exactly as
// many with kExact.
template <typename T, int kBlocks, bool kExact>
struct AttentionState {
  static constexpr int kChunks = kBlocks / 2;  // of 8 elements, a lane
  int g, t;                                    // the lane: lane / 4 and lane % 4
  int head_bytes;
  float greatest = -INFINITY, total = 0.0f;  // of head t, in units of log 2; of this lane's keys
  // Head t, elements 8 (g + 8 c) + j (the sum of the first two) and + j + 4 (of the last two).
  float sum[kChunks][4][4] = {};

  __device__ int row_bytes() const { return kExact ? 64 * kBlocks : head_bytes; }
};

// Brings q of the item into b.queries, and this step's own key and value, which belong to the item
// that ends with them, into b.own. Each as soon as it is there; a thread brings eight elements of
// one of them. Threads of the last warps, which in a short item have no keys of the ring.
template <typename T>
__device__ void fetch_queries(StepShared& b, const StepStage& stage, const AttentionItem& item) {
  constexpr int kVectors = kStepMaxHeadSize / 8;
  const int thread = kStepConsumers - 1 - static_cast<int>(threadIdx.x);
  const int row = thread / kVectors, element = thread % kVectors * 8;
  const bool is_query = row < item.heads, is_value = row == item.heads + 1;
  const int rows = item.heads + (item.end > item.position ? 2 : 0);
  if (row >= rows || element >= stage.head_size) return;
  uint4 raw;
  if (stage.x_exchange >= 0) {
    const int head =
        is_query ? item.head + row : stage.heads + item.kv + (is_value ? stage.kv_heads : 0);
    raw = await_vector(b, stage.x_exchange + head * stage.head_size + element);
  } else if (is_query) {
    raw = load_vector(static_cast<const T*>(stage.x) + (item.head + row) * stage.q_head + element);
  } else {
    const T* cache = static_cast<const T*>(is_value ? stage.v : stage.k) +
                     item.kv * (is_value ? stage.v_head : stage.k_head);
    raw = load_vector(cache + static_cast<std::int64_t>(item.position) * stage.head_size + element);
  }
  if (is_query) {
    store_vector(b.queries[row] + element * 2, operand_order(raw));
  } else {
    store_vector(b.own[is_value ? 1 : 0] + element * 2, raw);
  }
}

// The first of the two keys, of 16, whose scores a lane has; the other is the next. The order makes
// the four keys of a lane's k in the second product adjacent.
__device__ inline int lane_key(int g) { return g % 4 * 4 + g / 4 * 2; }

// A warp's 16 keys as operands of the scores: those lane_key and lane_key + 1.
template <int kBlocks>
struct KeyOperands {
  uint4 first[kBlocks], second[kBlocks];
};

// Keys at shared address `rows`, four to a row of the ring's slot, of which the first `keys` exist.
template <typename T, int kBlocks, bool kExact>
__device__ KeyOperands<kBlocks> load_keys(const AttentionState<T, kBlocks, kExact>& s,
                                          std::uint32_t rows, int keys) {
  const int row_bytes = s.row_bytes(), key = lane_key(s.g);
  const int place = step_row_place(s.g % 4) + s.g / 4 * 2 * row_bytes;
  const std::uint32_t first =
      rows + static_cast<std::uint32_t>((key < keys ? place : 0) + s.t * 16);
  const std::uint32_t second =
      rows + static_cast<std::uint32_t>((key + 1 < keys ? place + row_bytes : 0) + s.t * 16);
  KeyOperands<kBlocks> operands;
#pragma unroll
  for (unsigned j = 0; j < kBlocks; ++j) {
    const bool exists = kExact || static_cast<int>(j) * 64 + s.t * 16 < row_bytes;
    operands.first[j] = exists ? load_shared(first + j * 64) : make_uint4(0, 0, 0, 0);
    operands.second[j] = exists ? load_shared(second + j * 64) : make_uint4(0, 0, 0, 0);
  }
  return operands;
}

// Scores, in units of log 2, of head t and the lane's keys; −∞ where these are not below `keys`.
// Heads that the item does not have get scores of whatever b.queries holds, which nobody reads.
template <typename T, int kBlocks, bool kExact>
__device__ float2 scores_of(const AttentionState<T, kBlocks, kExact>& s,
                            const KeyOperands<kBlocks>& operands, std::uint32_t queries, int keys,
                            float scale) {
  const int key = lane_key(s.g);
  const std::uint32_t query =
      queries + static_cast<std::uint32_t>(s.g / 2 * 2 * kStepMaxHeadSize + s.t * 16 + s.g % 2 * 8);
  float upper[4] = {}, lower[4] = {};
#pragma unroll
  for (unsigned j = 0; j < kBlocks; ++j) {
    uint2 q = make_uint2(0, 0);
    if (kExact || static_cast<int>(j) * 64 + s.t * 16 < s.row_bytes()) {
      q = load_shared_pair(query + j * 64);
    }
    const uint4 a = operands.first[j], b = operands.second[j];
    mma_16816<T>(upper, {a.x, a.y, a.z, a.w}, q.x, q.y);
    mma_16816<T>(lower, {b.x, b.y, b.z, b.w}, q.x, q.y);
  }
  return make_float2(key < keys ? (upper[0] + upper[3]) * scale : -INFINITY,
                     key + 1 < keys ? (lower[0] + lower[3]) * scale : -INFINITY);
}

// B operands of the sums: columns 2 h and 2 h + 1 are the two parts of head h's weights.
struct WeightColumns {
  std::uint32_t b0, b1;
};

// Takes scores (scaled, −∞ where there is no key) into the running softmax, kFirst: the first ones.
template <bool kFirst, typename T, int kBlocks, bool kExact>
__device__ WeightColumns take_scores(AttentionState<T, kBlocks, kExact>& s, float2 score) {
  float next = fmaxf(score.x, score.y);
#pragma unroll
  for (int offset = 4; offset < 32; offset *= 2) {
    next = fmaxf(next, __shfl_xor_sync(kFullWarp, next, offset));
  }
  if (!kFirst) next = fmaxf(next, s.greatest);
  const float reference = next == -INFINITY ? 0.0f : next;
  if (kFirst) {
    s.greatest = next;
  } else if (__any_sync(kFullWarp, next != s.greatest)) {
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

// A warp's 16 values as operands of the sums, transposed: by chunk and pair of elements.
template <int kChunks>
struct ValueOperands {
  std::uint32_t word[kChunks][4][4];
};

// Values at shared address `rows`, as load_keys has its keys. What lies past them may be NaN, and
// is 0 here.
template <typename T, int kBlocks, bool kExact>
__device__ ValueOperands<kBlocks / 2> load_values(const AttentionState<T, kBlocks, kExact>& s,
                                                  std::uint32_t rows, int keys) {
  const std::uint32_t first = rows + static_cast<std::uint32_t>(step_row_place(s.t) + s.g * 16);
  const int row_bytes = s.row_bytes();
  ValueOperands<kBlocks / 2> operands;
#pragma unroll
  for (unsigned c = 0; c < s.kChunks; ++c) {
    uint4 value[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool exists =
          s.t * 4 + i < keys && (kExact || static_cast<int>(c) * 128 + s.g * 16 < row_bytes);
      value[i] = exists ? load_shared(first + c * 128 + static_cast<std::uint32_t>(i * row_bytes))
                        : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const unsigned pick = j % 2 == 0 ? 0x5410 : 0x7632;
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // values i / 2 and the next, words of the second half last
        const uint4 a = value[i / 2 * 2], b = value[i / 2 * 2 + 1];
        const bool later = i % 2 != 0;
        operands.word[c][j][i] =
            __byte_perm(j < 2 ? (later ? a.z : a.x) : (later ? a.w : a.y),
                        j < 2 ? (later ? b.z : b.x) : (later ? b.w : b.y), pick);
      }
    }
  }
  return operands;
}

// Adds values times their weights.
template <typename T, int kBlocks, bool kExact>
__device__ void add_values(AttentionState<T, kBlocks, kExact>& s,
                           const ValueOperands<kBlocks / 2>& operands, WeightColumns weights) {
#pragma unroll
  for (int c = 0; c < s.kChunks; ++c) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      mma_16816<T>(s.sum[c][j], operands.word[c][j], weights.b0, weights.b1);
    }
  }
}

// Takes 16 keys, of which the first `keys` exist, and their values, from the next slot of the ring
// and the one behind it (`skip` bytes in), or this step's own from b.own.
template <typename T, int kBlocks, bool kExact>
__device__ void attend_chunk(StepConsumer& c, const StepShared& b,
                             AttentionState<T, kBlocks, kExact>& s, bool own, std::uint32_t skip,
                             int keys, float scale) {
  StepRing values = c.ring;
  values.advance();
  if (!own) c.wait_slot(c.ring);
  const float2 score =
      scores_of(s, load_keys(s, own ? shared_address(b.own[0]) : c.ring.slot() + skip, keys),
                shared_address(b.queries), keys, scale);
  if (!own) c.release_slot(c.ring);
  const WeightColumns weights = take_scores<false>(s, score);
  if (!own) c.wait_slot(values);
  add_values(s, load_values(s, own ? shared_address(b.own[1]) : values.slot() + skip, keys),
             weights);
  if (!own) c.release_slot(values);
}

// A warp whose group has the next two slots, but which has no keys in them.
__device__ inline void skip_chunk(const StepConsumer& c) {
  StepRing own = c.ring;
  for (int i = 0; i < 2; ++i, own.advance()) {
    c.wait_slot(own);
    c.release_slot(own);
  }
}

// All keys of an item that are this warp's: of every slot a group of warps has 16 keys each, the
// next group those of the next slot, and so on. This step's own key is first, and that of the warp
// which would be next.
template <typename T, int kBlocks, bool kExact>
__device__ void attend_keys(StepConsumer& c, StepShared& b, AttentionState<T, kBlocks, kExact>& s,
                            const StepStage& stage, const AttentionItem& item) {
  static_assert(kStepSlotKeys / 16 == kStepSlotWarps);
  const bool may_run_ahead = c.ring.count < kStepFarSlots;
  int left = ring_keys(item);  // of slots to come
  const float scale = stage.scale * kStepLog2e;
  const bool own = item.end > item.position && c.warp == (left + 15) / 16 % kStepWarps;
  int turn = own ? -1 : 0;  // the group whose slots are next
  if (own) left += kStepSlotKeys;
#pragma unroll 1
  for (; left > 0; left -= kStepSlotKeys) {
    const bool mine = turn < 0 || c.warp / kStepSlotWarps == turn;
    const int chunk = turn < 0 ? 0 : c.warp % kStepSlotWarps;
    const int keys = turn < 0 ? 1 : min(kStepSlotKeys, left) - chunk * 16;
    if (mine && keys > 0) {
      attend_chunk(c, b, s, turn < 0, static_cast<std::uint32_t>(step_row_place(chunk * 4)), keys,
                   scale);
    } else if (mine) {
      skip_chunk(c);
    }
    if (turn >= 0) c.ring.advance(2);
    if (++turn == kStepGroups) {
      turn = 0;
      if (may_run_ahead) consumers_sync();
    }
  }
}

// Whether every warp has one chunk of an item at the most: no group of warps takes slots twice.
__device__ inline bool is_short(const StepRing& ring, const AttentionItem& item) {
  const int chunks = (ring_keys(item) + 15) / 16;
  return chunks + (item.end > item.position ? 1 : 0) <= kStepWarps && ring.count >= kStepFarSlots;
}

// attend_keys of a short item. What comes through the ring is in registers before q is there, so
// that behind q there is little but arithmetic.
template <typename T, int kBlocks, bool kExact>
__device__ void attend_short(StepConsumer& c, StepShared& b, AttentionState<T, kBlocks, kExact>& s,
                             const StepStage& stage, const AttentionItem& item) {
  fetch_queries<T>(b, stage, item);
  const int left = ring_keys(item);
  const int pairs = (left + kStepSlotKeys - 1) / kStepSlotKeys, group = c.warp / kStepSlotWarps;
  const bool own = item.end > item.position && c.warp == (left + 15) / 16;
  const int from_ring = own ? 0 : left - c.warp * 16, keys = own ? 1 : from_ring;
  // A warp without keys in the ring reads what it has no use for, from where nobody writes.
  const std::uint32_t nothing = shared_address(b.x_area);
  const auto skip = static_cast<std::uint32_t>(step_row_place(c.warp % kStepSlotWarps * 4));
  StepRing ring = c.ring;
  ring.advance(2 * group);
  if (group < pairs) c.wait_slot(ring);
  KeyOperands<kBlocks> key_operands =
      load_keys(s, from_ring > 0 ? ring.slot() + skip : nothing, from_ring);
  if (group < pairs) c.release_slot(ring);
  ring.advance();
  if (group < pairs) c.wait_slot(ring);
  ValueOperands<kBlocks / 2> value_operands = load_values(s, ring.slot() + skip, from_ring);
  if (group < pairs) c.release_slot(ring);
  c.ring.advance(2 * pairs);
  consumers_sync();  // q is there
  stamp(b, 1);
  if (own) {
    key_operands = load_keys(s, shared_address(b.own[0]), 1);
    value_operands = load_values(s, shared_address(b.own[1]), 1);
  }
  const float2 score =
      scores_of(s, key_operands, shared_address(b.queries), keys, stage.scale * kStepLog2e);
  add_values(s, value_operands, take_scores<true>(s, score));
}

// What a split leaves of one head for the block that joins them: sums (Dh), maximum, total.
__device__ inline float* split_record(const StepShared& b, const AttentionItem& item, int h,
                                      int split, int head_size) {
  return b.partials +
         ((item.unit * kStepHeadTile + h) * item.splits + split) * step_record_floats(head_size);
}

template <typename T>
__device__ void store_attended(const StepShared& b, const StepStage& stage, int head, int d,
                               float sum, float total) {
  publish(b, stage, head * stage.head_size + d,
          static_cast<T*>(stage.out) + head * stage.out_head + d,
          from_f32<T>(total > 0.0f || isnan(total) ? __fdividef(sum, total) : 0.0f));
}

// A warp's records of the item's heads, the same in shared memory: at index head · kStepWarps +
// warp from `records` on.
template <typename T, int kBlocks, bool kExact>
__device__ void leave_records(const AttentionState<T, kBlocks, kExact>& s, std::uint32_t records,
                              int heads, int head_size, int warp) {
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
// that computes calls, after the records are there. A warp takes 32 ÷ kParts elements of a head at
// a time, each by kParts lanes, which share the records among them.
template <typename T, int kParts>
__device__ void merge_records(StepShared& b, const StepStage& stage, const AttentionItem& item,
                              std::uint32_t records, int warp, int lane) {
  constexpr int kLanes = 32 / kParts, kRecords = kStepWarps / kParts;
  const int head_size = stage.head_size, groups = (head_size + kLanes - 1) / kLanes;
  const auto width = static_cast<std::uint32_t>(step_record_floats(head_size) * 4);  // bytes
  for (int i = warp; i < item.heads * groups; i += kStepWarps) {
    const int h = kParts == 1 ? i / groups : 0, d = (i - h * groups) * kLanes + lane % kLanes;
    const std::uint32_t of_head = records + static_cast<std::uint32_t>(h * kStepWarps) * width;
    // Lane w % kStepWarps has the maximum and total of warp w.
    const uint2 ends =
        load_shared_pair(of_head + static_cast<std::uint32_t>(lane % kStepWarps) * width +
                         static_cast<std::uint32_t>(head_size * 4));
    const int first = lane / kLanes * kRecords;
    const std::uint32_t at = of_head + static_cast<std::uint32_t>(first) * width +
                             static_cast<std::uint32_t>(min(d, head_size - 1) * 4);
    const float mine = __uint_as_float(ends.x), greatest = warp_max<kStepWarps>(mine);
    const float weight = exp2f(mine - (greatest == -INFINITY ? 0.0f : greatest));
    const float total = warp_sum<kStepWarps>(__uint_as_float(ends.y) * weight);
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kRecords; ++w) {
      sum = fmaf(load_shared_f32(at + static_cast<std::uint32_t>(w) * width),
                 __shfl_sync(kFullWarp, weight, first + w), sum);
    }
#pragma unroll
    for (int offset = kLanes; offset < 32; offset *= 2) {
      sum += __shfl_xor_sync(kFullWarp, sum, offset);
    }
    if (lane >= kLanes || d >= head_size) continue;
    if (item.splits == 1) {
      store_attended<T>(b, stage, item.head + h, d, sum, total);
    } else {
      float* to = split_record(b, item, h, item.split, head_size);
      to[d] = sum;
      if (d == 0) to[head_size] = greatest, to[head_size + 1] = total;
    }
  }
}

// One head is merged by four lanes an element, several by one.
template <typename T>
__device__ void merge_warps(StepShared& b, const StepStage& stage, const AttentionItem& item,
                            std::uint32_t records, int warp, int lane) {
  item.heads == 1 ? merge_records<T, 4>(b, stage, item, records, warp, lane)
                  : merge_records<T, 1>(b, stage, item, records, warp, lane);
}

// Joins the splits of a unit, if this block is the last to arrive with one. Every thread that
// computes calls.
template <typename T>
__device__ __noinline__ void join_splits() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  const AttentionItem& item = b.item;
  const int tid = static_cast<int>(threadIdx.x), head_size = stage.head_size;
  consumers_sync();  // this split's records are written
  if (tid == 0) {
    const auto last = static_cast<std::uint32_t>(item.splits - 1);
    b.last = signal_exchange_increment(b.control->units + item.unit, last) == last;
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
    store_attended<T>(b, stage, item.head + h, d, sum, total);
  }
}

// Item `index`, which there is. Every warp works it out for itself until q is there; behind that
// barrier it is in shared memory.
template <typename T, int kBlocks, bool kExact>
__device__ __noinline__ void run_attention_item(int index) {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  StepConsumer c(b);
  AttentionState<T, kBlocks, kExact> s;
  s.g = c.lane / 4;
  s.t = c.lane % 4;
  s.head_bytes = stage.head_size * static_cast<int>(sizeof(T));
  {
    const AttentionItem item = attention_item(b, stage, index);
    if (threadIdx.x == 0) b.item = item;
    if (is_short(c.ring, item)) {
      attend_short(c, b, s, stage, item);
    } else {
      fetch_queries<T>(b, stage, item);
      consumers_sync();  // q is there
      stamp(b, 1);
      attend_keys(c, b, s, stage, b.item);
    }
  }
  const std::uint32_t records = shared_address(b.x_area);
  leave_records(s, records, b.item.heads, stage.head_size, c.warp);
  c.leave(b);
  consumers_sync();  // every warp's records are there
  merge_warps<T>(b, stage, b.item, records, c.warp, c.lane);
  if (b.item.splits > 1) join_splits<T>();
}

template <typename T>
__device__ void run_attention_item(const StepStage& stage, int index) {
  if (stage.head_size == 128) return run_attention_item<T, 4, true>(index);
  if (stage.head_size == 64) return run_attention_item<T, 2, true>(index);
  run_attention_item<T, 4, false>(index);
}

// All items of this block. Nothing is kept across the calls here (kernel.cu).
template <typename T>
__device__ __noinline__ void run_attention() {
  StepShared& b = step_shared();
  const StepStage& stage = present_stage(b);
  const int first = step_first_tile(b.block, b.blocks, stage.rotation);
  if (first >= attention_items(b, stage)) return;
  run_attention_item<T>(stage, first);
  for (;;) {
    const int next = step_shared().item.index + step_shared().blocks;
    if (next >= step_shared().item.items) return;
    consumers_sync();  // nobody reads the records of the item before, or which it was
    run_attention_item<T>(present_stage(step_shared()), next);
  }
}

}  // namespace engine::cuda
