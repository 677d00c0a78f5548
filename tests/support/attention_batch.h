// Batches of attention with their operands on a device, and what the oracle makes of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "tests/support/backends.h"
#include "tests/support/guarded.h"

namespace engine::test {

struct BatchCase {
  std::vector<std::int64_t> queries, keys;  // of each sequence
  std::int64_t heads = 2, kv_heads = 1, head_size = 64;
  ScoreKind kind = ScoreKind::kNoop;
  bool ragged = false;
  std::int64_t position = 0;
  bool causal = false;
  std::int64_t window = 0, extent = 0;
  double cap = 3.0;
  bool large = false;

  std::int64_t sequences() const { return static_cast<std::int64_t>(queries.size()); }
  std::string name() const {
    return concat(score_name(kind), ragged ? " ragged " : " dense ", sequences(), " x ", queries[0],
                  " of ", keys[0], ", ", heads, "/", kv_heads, " heads of ", head_size,
                  causal ? " causal" : "", " at ", position, " window ", window);
  }
};

// A dense batch of `count` sequences.
inline BatchCase dense_case(std::int64_t count, std::int64_t queries, std::int64_t keys,
                            std::int64_t head_size, ScoreKind kind = ScoreKind::kNoop) {
  BatchCase c;
  c.queries.assign(static_cast<std::size_t>(count), queries);
  c.keys.assign(static_cast<std::size_t>(count), keys);
  c.head_size = head_size;
  c.kind = kind;
  c.extent = 37;
  return c;
}

class BatchAttention {
 public:
  // Of a ragged batch three rows of NaN follow those of the sequences, as do keys that no query
  // may see: those of a sequence without queries.
  BatchAttention(Backend& on, const BatchCase& c, DType type, Layout layout = kDense)
      : problem(c),
        dtype(type),
        backend_(on),
        query_rows_(rows_of(c.queries, c.ragged)),
        key_rows_(rows_of(c.keys, c.ragged)),
        q(uniform(planes() * query_rows_ * c.heads * c.head_size, 1, type, -2.0, 2.0)),
        k(uniform(planes() * key_rows_ * c.kv_heads * c.head_size, 2, type)),
        v(uniform(planes() * key_rows_ * c.kv_heads * c.head_size, 3, type)),
        dout(uniform(planes() * query_rows_ * c.heads * c.head_size, 4, type)),
        q_tensor(on, type, {planes(), query_rows_, c.heads, c.head_size}, layout),
        k_tensor(on, type, {planes(), key_rows_, c.kv_heads, c.head_size}, layout),
        v_tensor(on, type, {planes(), key_rows_, c.kv_heads, c.head_size}, layout),
        out(on, type, {planes(), query_rows_, c.heads, c.head_size}, layout),
        lse(on, DType::kF32, {planes(), c.heads, query_rows_}),
        query_offsets_(on, DType::kI32, {c.sequences() + 1}, offsets(c.queries)),
        key_offsets_(on, DType::kI32, {c.sequences() + 1}, offsets(c.keys)),
        position_(on, DType::kI32, {1}, Values{static_cast<double>(c.position)}),
        spans_(on, DType::kI32, {kPositions, 2}, document_spans()) {
    if (c.ragged) hide_rows();
    q_tensor.set(q);
    k_tensor.set(k);
    v_tensor.set(v);
  }

  AttentionBatchCall call(bool with_lse = true) const {
    AttentionBatchCall made{
        .out = out,
        .q = q_tensor,
        .k = k_tensor,
        .v = v_tensor,
        .query_offsets = {},
        .key_offsets = {},
        .position = problem.position > 0 ? position_.tensor() : Tensor{},
        .scale = scale(),
        .causal = problem.causal,
        .window = problem.window,
        .score = {problem.kind, problem.extent, static_cast<float>(problem.cap), spans_},
        .lse = with_lse ? lse.tensor() : Tensor{}};
    if (problem.ragged) {
      made.query_offsets = query_offsets_, made.key_offsets = key_offsets_;
      made.max_queries = *std::max_element(problem.queries.begin(), problem.queries.end());
      made.max_keys = *std::max_element(problem.keys.begin(), problem.keys.end());
    }
    return made;
  }
  void run(bool with_lse = true) {
    const AttentionBatchCall c = call(with_lse);
    GuardedWorkspace scratch(backend_, [&](Ops& ops, Workspace ws) { ops.attention_batch(c, ws); });
    backend_.ops().attention_batch(c, scratch.workspace());
    scratch.check("attention_batch scratch");
  }

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(problem.head_size)); }
  std::string name() const { return concat("attention_batch ", problem.name(), " ", dtype); }
  std::int64_t planes() const { return problem.ragged ? 1 : problem.sequences(); }
  std::int64_t query_rows() const { return query_rows_; }
  std::int64_t key_rows() const { return key_rows_; }

  reference::AttentionBatchProblem oracle(std::size_t n) const {
    reference::AttentionBatchProblem p;
    p.queries = problem.queries[n], p.keys = problem.keys[n];
    p.heads = problem.heads, p.kv_heads = problem.kv_heads, p.head_size = problem.head_size;
    p.position = problem.position;
    p.scale = static_cast<double>(scale());
    p.causal = problem.causal, p.window = problem.window;
    p.kind = problem.kind, p.extent = problem.extent;
    p.cap = static_cast<double>(static_cast<float>(problem.cap));
    for (std::int64_t i = 0; i < kPositions; ++i) p.document.push_back(document_of(i));
    return p;
  }
  // The rows of sequence n in a tensor's values.
  Values of_queries(const Values& values, std::size_t n) const {
    return part(values, problem.queries, query_rows_, problem.heads * problem.head_size, n,
                problem.ragged);
  }
  Values of_keys(const Values& values, std::size_t n) const {
    return part(values, problem.keys, key_rows_, problem.kv_heads * problem.head_size, n,
                problem.ragged);
  }
  // (H, Q) of sequence n.
  Values of_lse(const Values& values, std::size_t n) const {
    Values found;
    const std::int64_t plane = problem.ragged ? 0 : static_cast<std::int64_t>(n);
    const std::int64_t first = problem.ragged ? sum_before(problem.queries, n) : 0;
    for (std::int64_t h = 0; h < problem.heads; ++h) {
      for (std::int64_t i = 0; i < problem.queries[n]; ++i) {
        found.push_back(values[static_cast<std::size_t>((plane * problem.heads + h) * query_rows_ +
                                                        first + i)]);
      }
    }
    return found;
  }

  BatchCase problem;
  DType dtype;

 private:
  static constexpr std::int64_t kPositions = 1024;

  Backend& backend_;
  std::int64_t query_rows_, key_rows_;

 public:
  Values q, k, v, dout;
  Guarded q_tensor, k_tensor, v_tensor, out, lse;

 private:
  // Documents of 1, 61, 1, 61, … positions.
  static std::int32_t document_of(std::int64_t p) {
    return static_cast<std::int32_t>(p / 62 * 2 + (p % 62 > 0 ? 1 : 0));
  }
  static Values document_spans() {
    Values spans;
    for (std::int64_t p = 0; p < kPositions; ++p) {
      const std::int64_t begin = p % 62 > 0 ? p / 62 * 62 + 1 : p;
      spans.push_back(static_cast<double>(begin));
      spans.push_back(static_cast<double>(p % 62 > 0 ? begin + 61 : p + 1));
    }
    return spans;
  }
  static std::int64_t sum_before(const std::vector<std::int64_t>& lengths, std::size_t n) {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += lengths[i];
    return sum;
  }
  static std::int64_t rows_of(const std::vector<std::int64_t>& lengths, bool ragged) {
    return ragged ? sum_before(lengths, lengths.size()) + 3 : lengths[0];
  }
  static Values offsets(const std::vector<std::int64_t>& lengths) {
    Values values;
    for (std::size_t n = 0; n <= lengths.size(); ++n) {
      values.push_back(static_cast<double>(sum_before(lengths, n)));
    }
    return values;
  }
  static Values part(const Values& values, const std::vector<std::int64_t>& lengths,
                     std::int64_t rows, std::int64_t width, std::size_t n, bool joined) {
    const std::int64_t first =
        (joined ? sum_before(lengths, n) : static_cast<std::int64_t>(n) * rows) * width;
    return {values.begin() + first, values.begin() + first + lengths[n] * width};
  }
  void hide_rows() {
    const auto hide = [](Values& values, std::int64_t first, std::int64_t count) {
      std::fill_n(values.begin() + first, count, kNan);
    };
    const std::int64_t width = problem.kv_heads * problem.head_size;
    for (Values* values : {&k, &v}) {
      hide(*values, (key_rows_ - 3) * width, 3 * width);
      for (std::size_t n = 0; n < problem.keys.size(); ++n) {
        if (problem.queries[n] > 0) continue;
        hide(*values, sum_before(problem.keys, n) * width, problem.keys[n] * width);
      }
    }
  }

  Guarded query_offsets_, key_offsets_, position_, spans_;
};

}  // namespace engine::test
