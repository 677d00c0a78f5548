// Attention of a batch of sequences by online softmax: a work item is a tile of query rows of one
// head of one sequence against all keys that some of them sees.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/launchers.h"
#include "kernels/cpu/sequences.h"

namespace engine::cpu {
namespace {

constexpr std::int64_t kTile = kAttendRows;

// What changes the scores of a tile.
struct Change {
  const ScoreRule& rule;
  std::int64_t first_position;  // of the tile's row 0
  int head;
  float slope, offset;
};

void change_affine(const void* context, std::int64_t row, std::int64_t key, std::int64_t count,
                   float* scores) {
  const Change& c = *static_cast<const Change*>(context);
  const std::int64_t distance = c.first_position + row - key;
  for (std::int64_t j = 0; j < count; ++j) {
    scores[j] += c.slope * static_cast<float>(distance - j) + c.offset;
  }
}

void change_any(const void* context, std::int64_t row, std::int64_t key, std::int64_t count,
                float* scores) {
  const Change& c = *static_cast<const Change*>(context);
  const auto distance = static_cast<int>(c.first_position + row - key);
  for (std::int64_t j = 0; j < count; ++j) {
    scores[j] = score_value(c.rule, scores[j], c.head, distance - static_cast<int>(j));
  }
}

// Floats of one thread: q, results, maxima, sums and scores of a tile.
std::int64_t worker_floats(const AttentionBatchCall& call) {
  return kTile * (2 * call.q.size(3) + 2 + kKeyBlock);
}

struct Problem {
  const Context& context;
  const AttentionBatchCall& call;
  ScoreRule rule;
  int position;
};

void write_rows(const Problem& p, const Sequence& s, std::int64_t head, std::int64_t first,
                std::int64_t rows, const Attend& pass) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto narrow = p.context.kernels->from_float[type_index(p.call.out.dtype)];
  const std::int64_t width = pass.head_size;
  for (std::int64_t i = 0; i < rows; ++i) {
    float* acc = pass.acc + i * width;
    const float sum = pass.sum[i];
    for (std::int64_t d = 0; d < width; ++d) acc[d] = sum == 0.0f ? 0.0f : acc[d] / sum;
    narrow(acc, head_row(p.call.out, s.plane, s.first_query + first + i, head), width);
    if (p.call.lse) {
      *lse_of(p.call, s, head, first + i) = sum == 0.0f ? -kInfinity : pass.max[i] + std::log(sum);
    }
  }
}

void attend_tile(const Problem& p, const Sequence& s, std::int64_t head, std::int64_t first,
                 float* scratch) {
  const AttentionBatchCall& call = p.call;
  const std::int64_t width = call.q.size(3), rows = std::min(kTile, s.queries - first);
  const std::int64_t kv_head = head / (call.q.size(2) / call.k.size(2));
  std::int64_t low[kTile], high[kTile];
  const auto widen = p.context.kernels->to_float[type_index(call.q.dtype)];
  std::int64_t begin = s.keys, end = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    float* q = scratch + i * width;
    widen(head_row(call.q, s.plane, s.first_query + first + i, head), q, width);
    for (std::int64_t d = 0; d < width; ++d) q[d] *= call.scale;
    const KeyInterval seen = visible_keys(p.rule, p.position + static_cast<int>(first + i), s.keys);
    low[i] = seen.begin;
    high[i] = std::max(seen.begin, seen.end);
    if (low[i] < high[i]) {
      begin = std::min(begin, low[i]);
      end = std::max(end, high[i]);
    }
  }
  const int h = static_cast<int>(head);
  const Change change{p.rule, p.position + first, h, score_slope(p.rule, h),
                      score_offset(p.rule, h)};
  Attend pass = {.q = scratch,
                 .rows = rows,
                 .head_size = width,
                 .k = head_row(call.k, s.plane, s.first_key, kv_head),
                 .k_stride = call.k.stride(1),
                 .v = head_row(call.v, s.plane, s.first_key, kv_head),
                 .v_stride = call.v.stride(1),
                 .begin = begin,
                 .end = end,
                 .first = low,
                 .last = high,
                 .acc = scratch + kTile * width,
                 .max = scratch + 2 * kTile * width,
                 .sum = scratch + 2 * kTile * width + kTile,
                 .scores = scratch + 2 * kTile * (width + 1),
                 .context = &change};
  if (!score_is_affine(p.rule.kind)) {
    pass.change = change_any;
  } else if (change.slope != 0.0f || change.offset != 0.0f) {
    pass.change = change_affine;
  }
  std::fill_n(pass.acc, rows * width, 0.0f);
  std::fill_n(pass.max, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(pass.sum, rows, 0.0f);
  if (begin < end) p.context.kernels->attend[type_index(call.q.dtype)](pass);
  write_rows(p, s, head, first, rows, pass);
}

}  // namespace

std::size_t attention_batch_scratch_bytes(int threads, const AttentionBatchCall& call) {
  return static_cast<std::size_t>(threads * worker_floats(call)) * sizeof(float);
}

void attention_batch(const Context& context, const AttentionBatchCall& call, Workspace scratch) {
  const Problem p{context, call, call.rule(), position_of(call.position)};
  auto* base =
      scratch
          .take(DType::kU8,
                {static_cast<std::int64_t>(attention_batch_scratch_bytes(context.threads, call))})
          .as<float>();
  for (std::int64_t n = 0; n < call.sequences(); ++n) sequence_of(call, n);  // checks them
  const std::int64_t heads = call.q.size(2), tiles = ceil_div(call.queries(), kTile);
  const std::int64_t cost = kTile * call.keys() * call.q.size(3);
  parallel_for(context, call.sequences() * heads * tiles, cost, [&](std::int64_t item, int worker) {
    const Sequence s = sequence_of(call, item / (heads * tiles));
    const std::int64_t first = item % tiles * kTile;
    if (first >= s.queries) return;
    attend_tile(p, s, item / tiles % heads, first, base + worker * worker_floats(call));
  });
}

}  // namespace engine::cpu
