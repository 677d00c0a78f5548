// Attention of one token over its cache, as a stage of the step kernel.
//
//   out[h] = Σ_j softmax_j(scale · q[h] · k[g, j]) v[g, j]
// Layout: q and out (H, Dh), caches (G, C, Dh) with adjacent rows. Keys and values of earlier
// positions come through the ring, so they stream while q is still being computed; those of this
// step's own position are read from the cache directly.
// Who computes what: a block has items of step_split, a range of keys for one or kStepHeadTile
// query heads. Lanes share a key, eight elements a lane; every group of lanes keeps its own running
// maximum, total and sums, which are merged in a fixed order at the end: within the warp, over the
// warps, and, where a unit has several splits, over those by the block that finishes last. Limit:
// the bytes of K and V.
#pragma once

#include "kernels/cuda/step/block.cuh"

namespace engine::cuda {

inline constexpr float kStepLog2e = 1.4426950408889634f;

// Running softmax of one query head over the keys that a group of lanes has seen: maximum (in units
// of log 2), total and this lane's eight sums.
struct RunningSoftmax {
  float greatest = -INFINITY, total = 0.0f, sum[8] = {};

  // Takes a new maximum into account; returns the reference that weights are relative to.
  __device__ float raise(float score) {
    const float next = fmaxf(greatest, score);
    const float reference = next == -INFINITY ? 0.0f : next;
    const float factor = exp2f(greatest - reference);
    total *= factor;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] *= factor;
    greatest = next;
    return reference;
  }
  __device__ void add(float weight, const float (&value)[8]) {
    total += weight;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] = fmaf(weight, value[i], sum[i]);
  }
  // The union with what the lane `offset` away has seen.
  __device__ void merge(int offset) {
    const float other = __shfl_xor_sync(kFullWarp, greatest, offset);
    const float next = fmaxf(greatest, other), reference = next == -INFINITY ? 0.0f : next;
    const float mine = exp2f(greatest - reference), theirs = exp2f(other - reference);
    total = total * mine + __shfl_xor_sync(kFullWarp, total, offset) * theirs;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      sum[i] = sum[i] * mine + __shfl_xor_sync(kFullWarp, sum[i], offset) * theirs;
    }
    greatest = next;
  }
};

// An item: query heads [head, head + heads) of key/value head `kv`, keys [begin, end).
struct AttentionItem {
  int unit, split, kv, head, heads, begin, end;
};

__device__ inline AttentionItem attention_item(const StepStage& stage, const StepSplit& split,
                                               int first_key, int last_key, int index) {
  AttentionItem item;
  const int group = stage.heads / stage.kv_heads;
  const int units_of_group = split.units / stage.kv_heads;
  item.unit = index / split.splits;
  item.split = index % split.splits;
  item.kv = item.unit / units_of_group;
  const int within = item.unit % units_of_group * split.head_tile;
  item.head = item.kv * group + within;
  item.heads = min(split.head_tile, group - within);
  item.begin = first_key + item.split * split.keys;
  item.end = min(item.begin + split.keys, last_key + 1);
  return item;
}

// The keys that the step's token sees: [first, position].
__device__ inline int first_key_of(const StepStage& stage, int position) {
  return stage.window > 0 ? max(0, position - stage.window + 1) : 0;
}

template <typename T, int kHeads>
struct AttentionState {
  uint4 q[kHeads];
  RunningSoftmax heads[kHeads];
  int lanes, part, group;  // lanes of a key, this lane among them, this group of the warp
  bool active;             // this lane has elements of the head

  __device__ float score(int h, uint4 key, float scale) const {
    float a[8], b[8], dot = 0.0f;
    unpack<T>(q[h], a);
    unpack<T>(key, b);
#pragma unroll
    for (int i = 0; i < 8; ++i) dot = fmaf(a[i], b[i], dot);
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
      dot += __shfl_xor_sync(kFullWarp, dot, offset);
    }
    return dot * scale;
  }
};

// One slot of keys and one of values.
template <typename T, int kHeads>
__device__ void attend_slots(StepConsumer& c, AttentionState<T, kHeads>& s, const StepStage& stage,
                             int keys) {
  const int row_bytes = stage.head_size * 2, apart = kStepWarps * (32 / s.lanes);
  const int first = c.warp * (32 / s.lanes) + s.group;
  const float scale = stage.scale * kStepLog2e;
  const uint4 none = make_uint4(0, 0, 0, 0);
  float score[2][kHeads];
  c.wait_slot();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int key = first + i * apart;
    const uint4 raw =
        key < keys && s.active
            ? load_shared(c.ring.slot() + static_cast<std::uint32_t>(key * row_bytes + s.part * 16))
            : none;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float found = s.score(h, raw, scale);
      score[i][h] = key < keys ? found : -INFINITY;
    }
  }
  c.release_slot();
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float reference = s.heads[h].raise(fmaxf(score[0][h], score[1][h]));
    score[0][h] = exp2f(score[0][h] - reference);
    score[1][h] = exp2f(score[1][h] - reference);
  }
  c.wait_slot();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int key = first + i * apart;
    const uint4 raw =
        key < keys && s.active
            ? load_shared(c.ring.slot() + static_cast<std::uint32_t>(key * row_bytes + s.part * 16))
            : none;
    float value[8];
    unpack<T>(raw, value);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) s.heads[h].add(score[i][h], value);
  }
  c.release_slot();
}

// The key of this step's own position and its value, asked for together with q. Lanes that have no
// part in it get zeros.
struct OwnKey {
  uint4 key, value;
};

template <typename T>
__device__ OwnKey load_own(const StepStage& stage, int kv, int position, int part, bool mine) {
  OwnKey own{make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
  if (!mine) return own;
  const std::int64_t row = static_cast<std::int64_t>(position) * stage.head_size + part * 8;
  own.key = load_written(static_cast<const T*>(stage.k) + kv * stage.k_head + row);
  own.value = load_written(static_cast<const T*>(stage.v) + kv * stage.v_head + row);
  return own;
}

// By the first lanes of one warp. Every lane of it calls.
template <typename T, int kHeads>
__device__ void attend_own(AttentionState<T, kHeads>& s, const StepStage& stage, OwnKey own) {
  float value[8];
  unpack<T>(own.value, value);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float found = s.score(h, own.key, stage.scale * kStepLog2e);
    const float score = s.group == 0 ? found : -INFINITY;
    const float reference = s.heads[h].raise(score);
    s.heads[h].add(exp2f(score - reference), value);
  }
}

// What the warps leave for one head, and what a split leaves: sums (Dh), maximum, total.
__device__ inline float* merge_record(float* records, int index, int head_size) {
  return records + index * (head_size + 2);
}

// The weights of kStepWarps records as one softmax: lane i has that of record i, all lanes the
// joint maximum and total. Every lane calls.
__device__ inline float record_weight(const float* records, int head_size, int lane,
                                      float* greatest, float* total) {
  const float* record = records + lane % kStepWarps * (head_size + 2);
  const float mine = record[head_size];
  *greatest = warp_max<kStepWarps>(mine);
  const float weight = exp2f(mine - (*greatest == -INFINITY ? 0.0f : *greatest));
  *total = warp_sum<kStepWarps>(record[head_size + 1] * weight);
  return weight;
}

// Element d of `count` records, weighted as one softmax; the joint maximum and total beside it.
template <typename Load>
__device__ float merge_records(const float* records, int count, int head_size, int d, Load load,
                               float* greatest, float* total) {
  float most = -INFINITY;
  for (int i = 0; i < count; ++i) {
    most = fmaxf(most, load(records + i * (head_size + 2) + head_size));
  }
  const float reference = most == -INFINITY ? 0.0f : most;
  float sum = 0.0f, weights = 0.0f;
#pragma unroll 4
  for (int i = 0; i < count; ++i) {
    const float* record = records + i * (head_size + 2);
    const float factor = exp2f(load(record + head_size) - reference);
    weights = fmaf(load(record + head_size + 1), factor, weights);
    sum = fmaf(load(record + d), factor, sum);
  }
  *greatest = most;
  *total = weights;
  return sum;
}

template <typename T>
__device__ void store_attended(const StepStage& stage, int head, int d, float sum, float total) {
  static_cast<T*>(stage.out)[head * stage.out_head + d] =
      from_f32<T>(total > 0.0f || isnan(total) ? sum / total : 0.0f);
}

// Joins the splits of a unit, if this block is the last to arrive with one. Every thread that
// computes calls.
template <typename T>
__device__ void join_splits(StepConsumer& c, StepShared& b, const StepStage& stage,
                            const StepSplit& split, const AttentionItem& item) {
  const int tid = c.warp * 32 + c.lane, record = stage.head_size + 2;
  consumers_sync();  // this split's records are written
  if (tid == 0) {
    std::uint32_t* done = b.control->units + item.unit;
    b.last = signal_exchange_add(done, 1) + 1 == static_cast<std::uint32_t>(split.splits);
    if (b.last) *done = 0;
  }
  consumers_sync();
  if (!b.last) return;
  for (int i = tid; i < item.heads * stage.head_size; i += kStepConsumers) {
    const int h = i / stage.head_size, d = i % stage.head_size;
    const float* records = b.partials + (static_cast<std::int64_t>(item.unit) * kStepHeadTile + h) *
                                            split.splits * record;
    float greatest, total;
    const float sum = merge_records(
        records, split.splits, stage.head_size, d, [](const float* at) { return __ldcg(at); },
        &greatest, &total);
    store_attended<T>(stage, item.head + h, d, sum, total);
  }
}

template <typename T, int kHeads>
__device__ __noinline__ unsigned run_attention_item(unsigned state, StepShared& b,
                                                    const StepStage& stage, StepSplit split,
                                                    AttentionItem item, int position) {
  StepConsumer c(b, state);
  AttentionState<T, kHeads> s;
  s.lanes = step_key_lanes(stage.head_size);
  s.part = c.lane % s.lanes;
  s.group = c.lane / s.lanes;
  s.active = s.part * 8 < stage.head_size;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const int head = item.head + min(h, item.heads - 1);
    s.q[h] = s.active
                 ? load_written(static_cast<const T*>(stage.x) + head * stage.q_head + s.part * 8)
                 : make_uint4(0, 0, 0, 0);
  }
  const bool has_own = item.end > position && c.warp == 0;
  const OwnKey own =
      load_own<T>(stage, item.kv, position, s.part, has_own && s.group == 0 && s.active);
  const int streamed = min(item.end, position), slot_keys = step_slot_keys(stage.head_size);
  for (int key = item.begin; key < streamed; key += slot_keys) {
    attend_slots<T, kHeads>(c, s, stage, min(slot_keys, streamed - key));
  }
  if (has_own) attend_own<T, kHeads>(s, stage, own);

  const int tid = c.warp * 32 + c.lane;
  auto* records = reinterpret_cast<float*>(b.x_area);  // (kStepWarps, Dh + 2)
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h < item.heads) {
      for (int offset = s.lanes; offset < 32; offset *= 2) s.heads[h].merge(offset);
      float* record = merge_record(records, c.warp, stage.head_size);
      if (s.group == 0 && s.active) {
#pragma unroll
        for (int i = 0; i < 8; ++i) record[s.part * 8 + i] = s.heads[h].sum[i];
      }
      if (c.lane == 0) {
        record[stage.head_size] = s.heads[h].greatest;
        record[stage.head_size + 1] = s.heads[h].total;
      }
      consumers_sync();  // every warp's record is there
      float greatest, total;
      const float weight = record_weight(records, stage.head_size, c.lane, &greatest, &total);
      for (int first = c.warp * 32; first < stage.head_size; first += kStepConsumers) {
        const int d = first + c.lane;
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < kStepWarps; ++w) {
          const float part = d < stage.head_size ? records[w * (stage.head_size + 2) + d] : 0.0f;
          sum = fmaf(part, __shfl_sync(kFullWarp, weight, w), sum);
        }
        if (d >= stage.head_size) continue;
        if (split.splits == 1) {
          store_attended<T>(stage, item.head + h, d, sum, total);
        } else {
          float* to = b.partials +
                      ((static_cast<std::int64_t>(item.unit) * kStepHeadTile + h) * split.splits +
                       item.split) *
                          (stage.head_size + 2);
          to[d] = sum;
          if (d == 0) to[stage.head_size] = greatest, to[stage.head_size + 1] = total;
        }
      }
      consumers_sync();  // the records may be overwritten
    }
  }
  bool complete = true;
  if (split.splits > 1) {
    join_splits<T>(c, b, stage, split, item);
    complete = b.last != 0;
    consumers_sync();  // what was joined is written, and `last` read
  }
  if (tid == 0 && complete) b.done += static_cast<std::uint32_t>(item.heads);
  return c.state();
}

// All items of this block; the stage's dependency is met.
template <typename T>
__device__ unsigned run_attention(unsigned state, StepShared& b, const StepStage& stage) {
  const int position = step_position(stage), first = first_key_of(stage, position);
  const StepSplit split =
      step_split(position + 1 - first, stage.heads, stage.kv_heads, stage.head_size, b.blocks);
  for (int i = step_first_tile(b.block, b.blocks, stage.rotation); i < split.units * split.splits;
       i += b.blocks) {
    const AttentionItem item = attention_item(stage, split, first, position, i);
    if (split.head_tile == 1) {
      state = run_attention_item<T, 1>(state, b, stage, split, item, position);
    } else {
      state = run_attention_item<T, kStepHeadTile>(state, b, stage, split, item, position);
    }
  }
  return state;
}

}  // namespace engine::cuda
