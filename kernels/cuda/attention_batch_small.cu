// attention_batch for short sequences and small heads on tensor cores: all of a head's queries,
// keys and values of a sequence are in shared memory at once.
//
//   out[b, i, h] = Σ_j softmax_j(y(scale · q[b, i, h] · k[b, j, g])) v[b, j, g]
// Layout: as attention_batch_tiles.cuh; at most 256 queries and keys, Dh ≤ 16. Who computes what: a
// persistent grid, two blocks of 8 warps to a multiprocessor, takes (sequence, head) by (sequence,
// head); cp.async brings the next one's rows into the other of two stages meanwhile. A warp takes
// 16 queries at a time against keys in pieces of 128, as in attention_batch_tiles.cuh, whose parts
// these are. Limit: exp2.
#include "kernels/cuda/attention_batch_tiles.cuh"

namespace engine::cuda {
namespace {

struct SmallTile {
  static constexpr int kHead = 16, kThreads = 256, kRows = kSmallRows;
  static constexpr int kKeys = 128, kRow = kHead + 8, kScoreTiles = kKeys / 8, kSteps = 1;
  static constexpr bool kQInRegisters = true;
  static constexpr int kStage = 3 * kRows * kRow;  // elements: Q, K, V
  static constexpr std::size_t kSharedBytes = std::size_t{2} * kStage * 2;
};

// The rows of item `index` into shared memory.
template <typename T>
__device__ __forceinline__ void load_small(const AttentionBatchArguments& a, int index, T* stage) {
  const int head = index % a.heads;
  const BatchSequence s = a.sequence(index / a.heads);
  const auto load = [&](T* to, const void* from, const BatchStrides& stride, int first, int rows,
                        int at) {
    constexpr int kVectors = SmallTile::kHead / 8;
    const T* source = static_cast<const T*>(from) + s.plane * stride.batch + first * stride.row +
                      at * stride.head;
    // Up to whole pieces of keys: what a piece holds past the last key must be finite.
    const int padded = (rows + SmallTile::kKeys - 1) / SmallTile::kKeys * SmallTile::kKeys;
    for (int i = static_cast<int>(threadIdx.x); i < padded * kVectors; i += SmallTile::kThreads) {
      const int r = i / kVectors, d = i % kVectors * 8;
      const bool valid = r < rows && d < a.head_size;
      cp_async_16(to + r * SmallTile::kRow + d, valid ? source + r * stride.row + d : source,
                  valid);
    }
  };
  constexpr int kPlane = SmallTile::kRows * SmallTile::kRow;
  load(stage, a.q, a.q_stride, s.first_query, s.queries, head);
  load(stage + kPlane, a.k, a.k_stride, s.first_key, s.keys, head / a.group);
  load(stage + 2 * kPlane, a.v, a.v_stride, s.first_key, s.keys, head / a.group);
}

// 16 queries from `first_row` against all keys that they see.
template <typename T>
__device__ __forceinline__ void attend_small(const AttentionBatchArguments& a,
                                             const BatchSequence& s, int head, int first_row,
                                             int shift, const T* stage) {
  constexpr int kPlane = SmallTile::kRows * SmallTile::kRow;
  const int first_query = shift + first_row;
  const int last_query = shift + min(first_row + 16, s.queries) - 1;
  const KeyInterval seen = a.block_keys(first_query, last_query, s.keys);
  BatchLane<SmallTile> lane(a, first_query, s.keys, head);
  float out[SmallTile::kHead / 8][4] = {};
  std::uint32_t q_fragment[1][4];
  ldmatrix_x4(q_fragment[0], batch_fragment<T, SmallTile>(stage, first_row, 0));
  for (int first_key = seen.begin / SmallTile::kKeys * SmallTile::kKeys; first_key < seen.end;
       first_key += SmallTile::kKeys) {
    const int key = first_key + static_cast<int>(threadIdx.x) % 4 * 2;
    float score[SmallTile::kScoreTiles][4], rescale[2];
    batch_scores<T, SmallTile>(score, stage, q_fragment,
                               stage + kPlane + first_key * SmallTile::kRow);
    lane.change(a, score, key);
    lane.mask(score, first_key, key);
    lane.soften(score, rescale);
#pragma unroll
    for (int d = 0; d < SmallTile::kHead / 8; ++d) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[d][i] *= rescale[i / 2];
    }
    add_product<SmallTile::kRow>(out, score, stage + 2 * kPlane + first_key * SmallTile::kRow);
  }
  write_batch_rows<T, SmallTile>(a, s, head, first_row, out, lane);
}

template <typename T>
__global__ void __launch_bounds__(SmallTile::kThreads, 2)
    attention_batch_small_kernel(const AttentionBatchArguments a) {
  extern __shared__ uint4 shared[];
  T* stages = reinterpret_cast<T*>(shared);  // (2, Q K V, kRows, kRow)
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int items = a.sequences * a.heads, step = static_cast<int>(gridDim.x);
  pdl_launch_dependents();
  pdl_wait();
  const int shift = a.shift();
  int item = static_cast<int>(blockIdx.x), stage = 0;
  load_small(a, item, stages);
  cp_async_commit();
  for (; item < items; item += step, stage ^= 1) {
    if (item + step < items) load_small(a, item + step, stages + (stage ^ 1) * SmallTile::kStage);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();  // the item's rows are in
    const BatchSequence s = a.sequence(item / a.heads);
    for (int row = warp * 16; row < s.queries; row += SmallTile::kThreads / 2) {
      attend_small(a, s, item % a.heads, row, shift, stages + stage * SmallTile::kStage);
    }
    __syncthreads();  // every warp is done with the stage filled next
  }
  cp_async_wait<0>();
}

template <typename T>
void launch_small(CudaContext& context, const AttentionBatchCall& call) {
  constexpr std::int64_t kBlocksPerSm = 2;
  const AttentionBatchArguments a = batch_arguments(call);
  const std::int64_t items = call.sequences() * a.heads;
  ENGINE_CHECK(items < 0x3fffffff, ErrorKind::kUnsupported, "attention_batch: ", items,
               " heads of sequences");
  const std::int64_t blocks = std::min<std::int64_t>(items, kBlocksPerSm * context.arch().sms);
  launch(context, attention_batch_small_kernel<T>, to_unsigned(blocks), SmallTile::kThreads,
         SmallTile::kSharedBytes, a);
}

}  // namespace

void attention_batch_small(CudaContext& context, const AttentionBatchCall& call) {
  if (call.q.dtype == DType::kF16) return launch_small<__half>(context, call);
  launch_small<__nv_bfloat16>(context, call);
}

}  // namespace engine::cuda
