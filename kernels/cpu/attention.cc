// Softmax attention over the cache by online softmax: no score matrix beyond a block of keys.
//
// The query rows that share a key/value head are taken together, in tiles of up to kAttendRows, so
// that keys and values are read once for the whole group. With many tokens each tile walks all of
// its keys; with few, where tiles alone would leave threads idle on a long context, the keys are
// cut into pieces of kSplitKeys and the partial results are combined in order of position. Tiles
// and pieces follow from T and the positions, never from the bound or the number of threads: they
// do not show in the result.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {
namespace {

constexpr std::int64_t kSplitTokens = 4;  // up to here, keys are split
constexpr std::int64_t kSplitKeys = 512;  // keys of a piece
static_assert(kSplitKeys % kKeyBlock == 0);

// How the query rows are cut into tiles: by key/value head, heads of its group, tokens.
struct Tiling {
  std::int64_t tokens, heads, kv_heads, head_size, group;
  std::int64_t head_tiles, tile_heads;    // of one group
  std::int64_t token_tiles, tile_tokens;  // of the step
  std::int64_t splits;                    // pieces of the longest cache that `bound` allows

  explicit Tiling(const AttentionCall& call)
      : tokens(call.q.size(0)),
        heads(call.q.size(1)),
        kv_heads(call.k_cache.size(0)),
        head_size(call.q.size(2)),
        group(heads / kv_heads),
        head_tiles(ceil_div(group, kAttendRows)),
        tile_heads(head_tiles > 0 ? ceil_div(group, head_tiles) : 0),
        token_tiles(tile_heads > 0 ? ceil_div(tokens, kAttendRows / tile_heads) : 0),
        tile_tokens(token_tiles > 0 ? ceil_div(tokens, token_tiles) : 0),
        splits(tokens <= kSplitTokens ? ceil_div(call.bound, kSplitKeys) : 1) {}

  std::int64_t tiles() const { return kv_heads * head_tiles * token_tiles; }
  std::int64_t rows() const { return tile_heads * tile_tokens; }  // of a tile, at most
};

// One tile: its query rows are (t, h) for t in [token, token + tokens), h in [head, head + heads),
// tokens outermost.
struct Tile {
  std::int64_t kv_head, head, heads, token, tokens;

  Tile(const Tiling& tiling, std::int64_t index) {
    const std::int64_t per_head = tiling.head_tiles * tiling.token_tiles;
    kv_head = index / per_head;
    const std::int64_t offset = index % per_head / tiling.token_tiles * tiling.tile_heads;
    head = kv_head * tiling.group + offset;
    heads = std::clamp<std::int64_t>(tiling.group - offset, 0, tiling.tile_heads);
    token = index % tiling.token_tiles * tiling.tile_tokens;
    tokens = std::clamp<std::int64_t>(tiling.tokens - token, 0, tiling.tile_tokens);
  }
  std::int64_t rows() const { return heads * tokens; }
};

// The keys [first, last) that the query at `token` sees.
struct Visible {
  std::int64_t first, last;

  Visible(const AttentionCall& call, std::int64_t position, std::int64_t token) {
    const std::int64_t query = position + token;
    const std::int64_t length = std::clamp<std::int64_t>(position + call.q.size(0), 0, call.bound);
    last = call.causal ? std::min(query + 1, length) : length;
    first = call.window > 0 ? std::max<std::int64_t>(query - call.window + 1, 0) : 0;
  }
};

// Floats that the threads need: q, scores and, where keys are not split, the results of one tile.
std::int64_t worker_floats(const Tiling& tiling) {
  return tiling.rows() * (2 * tiling.head_size + kKeyBlock + 2);
}
// Floats of the partial results where keys are split: acc, max and sum by (split, tile, row).
std::int64_t partial_floats(const Tiling& tiling) {
  if (tiling.tokens > kSplitTokens) return 0;
  return tiling.splits * tiling.tiles() * tiling.rows() * (tiling.head_size + 2);
}

// Where the results of one pass over one tile lie.
struct Partial {
  float* acc;  // (rows, Dh)
  float* max;  // (rows)
  float* sum;  // (rows)

  Partial(float* base, const Tiling& tiling)
      : acc(base), max(base + tiling.rows() * tiling.head_size), sum(max + tiling.rows()) {}
};

struct Problem {
  const Context& context;
  const AttentionCall& call;
  Tiling tiling;
  std::int64_t position;
  float* workers;   // threads × worker_floats
  float* partials;  // partial_floats

  float* worker_base(int worker) const {
    return workers + static_cast<std::int64_t>(worker) * worker_floats(tiling);
  }
  Partial partial(std::int64_t split, std::int64_t tile) const {
    return {partials + (split * tiling.tiles() + tile) * tiling.rows() * (tiling.head_size + 2),
            tiling};
  }
  // Keys that a query can see at all.
  std::int64_t length() const {
    return std::clamp<std::int64_t>(position + tiling.tokens, 0, call.bound);
  }
  // Products of one pass of a tile over `keys` keys.
  std::int64_t tile_cost(std::int64_t keys) const {
    return tiling.rows() * keys * tiling.head_size;
  }
  // The keys that any query of the tile sees.
  Visible span(const Tile& tile) const {
    Visible keys(call, position, tile.token);
    keys.last = Visible(call, position, tile.token + tile.tokens - 1).last;
    return keys;
  }
};

// Attends the rows of `tile` to the keys [begin, end).
void attend_tile(const Problem& p, const Tile& tile, std::int64_t begin, std::int64_t end,
                 const Partial& result, float* scratch) {
  const std::int64_t head_size = p.tiling.head_size;
  std::int64_t first[kAttendRows], last[kAttendRows];
  float* q = scratch;  // (rows, Dh)
  const auto widen = p.context.kernels->to_float[type_index(p.call.q.dtype)];
  std::int64_t row = 0;
  for (std::int64_t t = tile.token; t < tile.token + tile.tokens; ++t) {
    const Visible keys(p.call, p.position, t);
    for (std::int64_t h = tile.head; h < tile.head + tile.heads; ++h, ++row) {
      float* to = q + row * head_size;
      widen(row_of(p.call.q, t, h), to, head_size);
      for (std::int64_t d = 0; d < head_size; ++d) to[d] *= p.call.scale;
      first[row] = keys.first;
      last[row] = keys.last;
    }
  }
  std::fill_n(result.acc, row * head_size, 0.0f);
  std::fill_n(result.max, row, -std::numeric_limits<float>::infinity());
  std::fill_n(result.sum, row, 0.0f);
  p.context.kernels->attend[type_index(p.call.q.dtype)](
      {.q = q,
       .rows = row,
       .head_size = head_size,
       .k = row_of(p.call.k_cache, tile.kv_head),
       .k_stride = p.call.k_cache.stride(1),
       .v = row_of(p.call.v_cache, tile.kv_head),
       .v_stride = p.call.v_cache.stride(1),
       .begin = begin,
       .end = end,
       .first = first,
       .last = last,
       .acc = result.acc,
       .max = result.max,
       .sum = result.sum,
       .scores = q + p.tiling.rows() * head_size});
}

// Divides by the sums, rounds, and writes out and lse.
void finish_tile(const Problem& p, const Tile& tile, const Partial& result) {
  const auto narrow = p.context.kernels->from_float[type_index(p.call.out.dtype)];
  const std::int64_t head_size = p.tiling.head_size;
  std::int64_t row = 0;
  for (std::int64_t t = tile.token; t < tile.token + tile.tokens; ++t) {
    for (std::int64_t h = tile.head; h < tile.head + tile.heads; ++h, ++row) {
      float* acc = result.acc + row * head_size;
      const float sum = result.sum[row];
      const bool empty = sum == 0.0f;
      for (std::int64_t d = 0; d < head_size; ++d) acc[d] = empty ? 0.0f : acc[d] / sum;
      narrow(acc, row_of(p.call.out, t, h), head_size);
      if (p.call.lse) {
        reinterpret_cast<float*>(row_of(p.call.lse, h))[t] =
            empty ? -std::numeric_limits<float>::infinity() : result.max[row] + std::log(sum);
      }
    }
  }
}

// Folds the partial results of a later piece into those of the earlier ones.
void merge(const Partial& total, const Partial& piece, std::int64_t rows, std::int64_t head_size) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  for (std::int64_t row = 0; row < rows; ++row) {
    if (piece.max[row] == kNone && piece.sum[row] == 0.0f) continue;
    const float highest = std::max(total.max[row], piece.max[row]);
    const float base = highest == kNone ? 0.0f : highest;
    const float a = std::exp(total.max[row] - base), b = std::exp(piece.max[row] - base);
    float* acc = total.acc + row * head_size;
    const float* more = piece.acc + row * head_size;
    for (std::int64_t d = 0; d < head_size; ++d) acc[d] = acc[d] * a + more[d] * b;
    total.sum[row] = total.sum[row] * a + piece.sum[row] * b;
    total.max[row] = highest;
  }
}

void whole(const Problem& p) {
  parallel_for(p.context, p.tiling.tiles(), p.tile_cost(p.length()),
               [&](std::int64_t index, int worker) {
                 const Tile tile(p.tiling, index);
                 if (tile.rows() == 0) return;
                 float* scratch = p.worker_base(worker);
                 const Partial result(scratch + p.tiling.rows() * (p.tiling.head_size + kKeyBlock),
                                      p.tiling);
                 const Visible keys = p.span(tile);
                 attend_tile(p, tile, keys.first, keys.last, result, scratch);
                 finish_tile(p, tile, result);
               });
}

void split(const Problem& p) {
  const std::int64_t splits = std::max<std::int64_t>(ceil_div(p.length(), kSplitKeys), 1);
  const std::int64_t cost = p.tile_cost(std::min(p.length(), kSplitKeys));
  parallel_for(p.context, p.tiling.tiles() * splits, cost, [&](std::int64_t item, int worker) {
    const std::int64_t index = item / splits, piece = item % splits;
    const Tile tile(p.tiling, index);
    if (tile.rows() == 0) return;
    const Visible keys = p.span(tile);
    attend_tile(p, tile, std::max(keys.first, piece * kSplitKeys),
                std::min(keys.last, (piece + 1) * kSplitKeys), p.partial(piece, index),
                p.worker_base(worker));
  });
  parallel_for(p.context, p.tiling.tiles(), p.tile_cost(splits), [&](std::int64_t index, int) {
    const Tile tile(p.tiling, index);
    const Partial total = p.partial(0, index);
    for (std::int64_t piece = 1; piece < splits; ++piece) {
      merge(total, p.partial(piece, index), tile.rows(), p.tiling.head_size);
    }
    finish_tile(p, tile, total);
  });
}

}  // namespace

std::size_t attention_scratch_bytes(int threads, const AttentionCall& call) {
  const Tiling tiling(call);
  return static_cast<std::size_t>(threads * worker_floats(tiling) + partial_floats(tiling)) *
         sizeof(float);
}

void attention(const Context& context, const AttentionCall& call, Workspace scratch) {
  const Tiling tiling(call);
  const std::size_t bytes = attention_scratch_bytes(context.threads, call);
  auto* base = scratch.take(DType::kU8, {static_cast<std::int64_t>(bytes)}).as<float>();
  const Problem problem = {.context = context,
                           .call = call,
                           .tiling = tiling,
                           .position = *call.position.as<std::int32_t>(),
                           .workers = base,
                           .partials = base + context.threads * worker_floats(tiling)};
  if (tiling.tokens <= kSplitTokens) {
    split(problem);
  } else {
    whole(problem);
  }
}

}  // namespace engine::cpu
