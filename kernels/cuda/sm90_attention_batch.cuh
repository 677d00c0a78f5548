// attention_batch on Hopper: flash attention with warpgroup products and bulk copies, for dense and
// ragged batches, with a score function on the fragment of scores.
//
//   out[b, i, h] = Σ_j softmax_j(y(scale · q[b, i, h] · k[b, j, g])) v[b, j, g]
// Layout: q and out (B, Q, H, Dh), k and v (B, K, G, Dh), any strides of 16 bytes, rows of
// sequences joined where the batch is ragged; heads smaller than the compiled size are zero-filled
// by the copies. Who computes what: as in sm90_attention_prefill.cuh, whose consumers these are: a
// persistent grid takes items of kQueries queries of one head, one thread copies, each further
// warpgroup has 64 queries. Scores (sm90_attention_scores.cuh) are a form of score function; tiles
// that no query of an item sees are never copied. fp32 sums in a fixed order: the same bits on
// every run. Limit: tensor-core rate, or for Dh = 64 that of exp2.
#pragma once

#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/tma_tensor.cuh"
#include "kernels/cuda/sm90_attention_consumer.cuh"
#include "kernels/cuda/sm90_attention_scores.cuh"
#include "kernels/cuda/tensor_map.h"

namespace engine::cuda {

struct Sm90BatchArguments {
  AttentionBatchArguments batch;
  int query_blocks, section_heads;  // heads: of all sequences
};

// A block of queries of one head of one sequence, and the keys that its queries see.
struct BatchItem {
  BatchSequence sequence;
  int head, first_row, first_query;  // first_query: the position of first_row
  int begin, end, tiles;             // tiles end at `end`

  __device__ bool has_rows_before() const { return sequence.first_key + begin > 0; }
  // First key of tile `i`, counted from the end; may be negative, or below `begin`, in the last.
  template <typename Tile>
  __device__ int first_key(int i) const {
    return end - (i + 1) * Tile::kKeys;
  }
};

// Item `round` of this block, in the order of attention_item. False past the last.
template <typename Tile>
__device__ bool batch_item(const Sm90BatchArguments& a, int shift, int round, BatchItem* item) {
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  const int heads = a.batch.sequences * a.batch.heads, items = heads * a.query_blocks;
  const int index = round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
  if (round * blocks >= items) return false;
  // The last round may leave this block without an item: one without tiles and rows.
  item->tiles = 0;
  item->sequence = {};
  item->head = item->first_row = 0;
  if (index >= items) return true;
  const int section_items = a.section_heads * a.query_blocks;
  const int first_head = index / section_items * a.section_heads;
  const int count = min(a.section_heads, heads - first_head), rest = index % section_items;
  const int head = first_head + rest % count;
  item->head = head % a.batch.heads;
  item->sequence = a.batch.sequence(head / a.batch.heads);
  item->first_row = (a.query_blocks - 1 - rest / count) * Tile::kQueries;
  item->first_query = shift + item->first_row;
  const int rows = min(Tile::kQueries, item->sequence.queries - item->first_row);
  if (rows <= 0) return true;
  const KeyInterval seen =
      a.batch.block_keys(item->first_query, item->first_query + rows - 1, item->sequence.keys);
  item->begin = seen.begin, item->end = seen.end;
  item->tiles = (max(seen.end - seen.begin, 0) + Tile::kKeys - 1) / Tile::kKeys;
  return true;
}

// The producer, one thread: for every item of the block Q, then its tiles of K and V.
template <typename Tile>
__device__ void copy_batch(const Sm90BatchArguments& a, const AttentionShared<Tile>& shared,
                           int shift, const CUtensorMap* q_map, const CUtensorMap* k_map,
                           const CUtensorMap* v_map) {
  RingPlace<Tile::kQueryStages> q_place;
  RingPlace<Tile::kStages> place;  // of K and of V alike
  BatchItem item;
  for (int round = 0; batch_item<Tile>(a, shift, round, &item); ++round) {
    if (item.tiles == 0) continue;
    const BatchSequence& s = item.sequence;
    mbarrier_wait(shared.q_empty + q_place.slot, q_place.parity ^ 1);
    mbarrier_arrive_expect(shared.q_full + q_place.slot, Tile::kQueryBytes);
    for (int b = 0; b < Tile::kBlocks; ++b) {
      tma_load_4d(shared.q + q_place.slot * Tile::kQueryBytes + b * Tile::kQueryBlockBytes, q_map,
                  shared.q_full + q_place.slot, b * 64, s.first_query + item.first_row, item.head,
                  s.plane);
    }
    q_place.advance();
    const auto copy_tile = [&](std::uint8_t* ring, const CUtensorMap* map, std::uint64_t* full,
                               std::uint64_t* empty, int key) {
      mbarrier_wait(empty + place.slot, place.parity ^ 1);
      mbarrier_arrive_expect(full + place.slot, Tile::kKeyBytes);
      for (int b = 0; b < Tile::kBlocks; ++b) {
        tma_load_4d(ring + place.slot * Tile::kKeyBytes + b * Tile::kKeyBlockBytes, map,
                    full + place.slot, b * 64, s.first_key + key, item.head / a.batch.group,
                    s.plane);
      }
    };
    for (int tile = 0; tile < item.tiles; ++tile) {
      const int key = item.first_key<Tile>(tile);
      copy_tile(shared.k, k_map, shared.k_full, shared.k_empty, key);
      copy_tile(shared.v, v_map, shared.v_full, shared.v_empty, key);
      place.advance();
    }
  }
}

// Where an item's results go: rows of one head of a sequence.
struct BatchRows {
  const AttentionBatchArguments& a;
  const BatchItem& item;
  float lse_factor;

  __device__ int first_row() const { return item.first_row; }
  __device__ int rows() const { return item.sequence.queries; }
  __device__ int head_size() const { return a.head_size; }
  template <typename T>
  __device__ T* row(int i) const {
    return static_cast<T*>(a.out) + item.sequence.plane * a.out_stride.batch +
           (item.sequence.first_query + i) * a.out_stride.row + item.head * a.out_stride.head;
  }
  __device__ bool wants_lse() const { return a.lse != nullptr; }
  __device__ float* lse(int i) const {
    return a.lse + item.sequence.plane * a.lse_batch + item.head * a.lse_head +
           item.sequence.first_query + i;
  }
  __device__ float natural_lse(float maximum, float sum) const {
    return (maximum * lse_factor + log2f(sum)) * kNaturalOf2 + score_offset(a.rule, item.head);
  }
};

// A consumer warpgroup, all items of the block.
template <typename T, typename Tile, template <typename> typename Scores>
__device__ __forceinline__ void attend_batch(const Sm90BatchArguments& a,
                                             const AttentionShared<Tile>& shared, int shift) {
  ConsumerState<Tile> state;
  state.group = static_cast<int>(threadIdx.x) / 128 - 1;
  // The last group gives the first its first turn, and the first takes the one left in the end.
  if (state.group == Tile::kGroups - 1) named_barrier_arrive(kTurn, 256);
  BatchItem item;
  for (int round = 0; batch_item<Tile>(a, shift, round, &item); ++round) {
    AttentionSums<Tile> out = {};
    OnlineSoftmax softmax;
    if (item.tiles > 0) {
      const int group_query = item.first_query + state.group * 64;
      const int row = group_query + static_cast<int>(threadIdx.x) / 32 % 4 * 16 +
                      static_cast<int>(threadIdx.x) % 32 / 4;
      const Scores<Tile> scores(a.batch, item.head, group_query, row, item.sequence.keys);
      attend<T, Tile>(scores, shared, item, state, out, softmax);
    }
    write_item<T, Tile>(BatchRows{a.batch, item, Scores<Tile>::lse_factor(a.batch)}, state.group,
                        out, softmax);
  }
  if (state.group == 0) named_barrier_sync(kTurn, 256);
}

template <typename T, typename Tile, template <typename> typename Scores>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    sm90_attention_batch_kernel(const __grid_constant__ Sm90BatchArguments a,
                                const __grid_constant__ CUtensorMap q_map,
                                const __grid_constant__ CUtensorMap k_map,
                                const __grid_constant__ CUtensorMap v_map) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ std::uint8_t raw[];
  const AttentionShared<Tile> shared(raw);
  if (threadIdx.x == 0) {
    for (int s = 0; s < Tile::kQueryStages; ++s) {
      mbarrier_init(shared.q_full + s, 1);
      mbarrier_init(shared.q_empty + s, Tile::kGroups * 4);
    }
    for (int s = 0; s < Tile::kStages; ++s) {
      mbarrier_init(shared.k_full + s, 1);
      mbarrier_init(shared.v_full + s, 1);
      mbarrier_init(shared.k_empty + s, Tile::kGroups * 4);
      mbarrier_init(shared.v_empty + s, Tile::kGroups * 4);
    }
    fence_mbarrier_init();
  }
  pdl_launch_dependents();
  pdl_wait();
  __syncthreads();  // the barriers are initialised
  const int shift = a.batch.shift();
  // 64 K registers: what the producer gives back, the consumers take.
  constexpr int kProducerRegisters = Tile::kGroups == 2 ? 40 : 32;
  constexpr int kConsumerRegisters = Tile::kGroups == 2 ? 232 : 160;
  if (threadIdx.x < 128) {
    give_registers_back<kProducerRegisters>();
    if (threadIdx.x == 0) copy_batch<Tile>(a, shared, shift, &q_map, &k_map, &v_map);
  } else {
    take_registers<kConsumerRegisters>();
    attend_batch<T, Tile, Scores>(a, shared, shift);
  }
#endif
}

template <typename T, typename Tile, template <typename> typename Scores>
void launch_sm90_batch(CudaContext& context, const AttentionBatchCall& call) {
  Sm90BatchArguments a{};
  a.batch = batch_arguments(call);
  a.query_blocks = static_cast<int>((call.queries() + Tile::kQueries - 1) / Tile::kQueries);
  constexpr std::int64_t kKeyAndValueBytes = 4;  // of a column
  const std::int64_t heads = call.sequences() * a.batch.heads;
  a.section_heads = static_cast<int>(
      attention_batch_section(context.arch(), a.batch.rule, heads, a.query_blocks,
                              call.keys() * call.q.size(3) * kKeyAndValueBytes / a.batch.group));
  const std::int64_t items = heads * a.query_blocks;
  ENGINE_CHECK(items < 0x7fffffff, ErrorKind::kUnsupported, "attention_batch: ", items,
               " blocks of queries");
  const auto map = [&](const Tensor& tensor, int box_rows) {
    return make_tensor_map(context,
                           HeadsView{.data = tensor.data,
                                     .dtype = tensor.dtype,
                                     .batch = tensor.size(0),
                                     .rows = tensor.size(1),
                                     .heads = tensor.size(2),
                                     .columns = tensor.size(3),
                                     .batch_stride = tensor.stride(0),
                                     .row_stride = tensor.stride(1),
                                     .head_stride = tensor.stride(2)},
                           box_rows);
  };
  const unsigned blocks = to_unsigned(std::min<std::int64_t>(items, context.arch().sms));
  launch(context, sm90_attention_batch_kernel<T, Tile, Scores>, blocks, Tile::kThreads,
         static_cast<std::size_t>(Tile::kSharedBytes), a, map(call.q, Tile::kQueries),
         map(call.k, Tile::kKeys), map(call.v, Tile::kKeys));
}

template <typename T, template <typename> typename Scores>
void pick_sm90_batch(CudaContext& context, const AttentionBatchCall& call, int bucket) {
  if (bucket == 64) return launch_sm90_batch<T, AttentionTile<64, 3, 2>, Scores>(context, call);
  launch_sm90_batch<T, AttentionTile<128, 2, 2>, Scores>(context, call);
}

}  // namespace engine::cuda
