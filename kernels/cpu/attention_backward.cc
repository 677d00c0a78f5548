// The gradients of attention: a work item is a key/value head of a sequence, whose heads and
// queries pass in order, so that every sum has one order whatever the threads. Sums are fp32.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/launchers.h"
#include "kernels/cpu/sequences.h"

namespace engine::cpu {
namespace {

// Floats of one thread: k, v, dk, dv of a head, then q, dout, out, dq of a row, then weights and
// score gradients of a row.
std::int64_t worker_floats(const AttentionGradCall& call) {
  const std::int64_t width = call.forward.q.size(3), keys = call.forward.keys();
  return (4 * keys + 4) * width + 2 * keys;
}

struct Row {
  float *q, *dout, *out, *dq;  // (Dh)
  float *p, *ds;               // (K)
};

float dot(const float* a, const float* b, std::int64_t count) {
  float part[8] = {};
  std::int64_t d = 0;
  for (; d + 8 <= count; d += 8) {
    for (std::int64_t i = 0; i < 8; ++i) part[i] += a[d + i] * b[d + i];
  }
  for (; d < count; ++d) part[0] += a[d] * b[d];
  return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

void add_scaled(float* to, float factor, const float* from, std::int64_t count) {
  for (std::int64_t d = 0; d < count; ++d) to[d] += factor * from[d];
}

struct Problem {
  const Context& context;
  const AttentionGradCall& call;
  ScoreRule rule;
  int position;

  void widen(const Tensor& from, std::int64_t plane, std::int64_t row, std::int64_t head,
             float* to) const {
    context.kernels->to_float[type_index(from.dtype)](head_row(from, plane, row, head), to,
                                                      from.size(3));
  }
  void narrow(const float* from, const Tensor& to, std::int64_t plane, std::int64_t row,
              std::int64_t head) const {
    context.kernels->from_float[type_index(to.dtype)](from, head_row(to, plane, row, head),
                                                      to.size(3));
  }
};

// One query of one head: adds to dk and dv, sets dq.
void differentiate_row(const Problem& p, const Sequence& s, std::int64_t head, std::int64_t query,
                       const float* k, const float* v, float* dk, float* dv, const Row& row) {
  const AttentionBatchCall& forward = p.call.forward;
  const std::int64_t width = forward.q.size(3), at = s.first_query + query;
  std::fill_n(row.dq, width, 0.0f);
  const float lse = *lse_of(forward, s, head, query);
  const int position = p.position + static_cast<int>(query);
  KeyInterval seen = visible_keys(p.rule, position, s.keys);
  if (lse == -std::numeric_limits<float>::infinity()) seen.end = seen.begin;
  if (seen.begin < seen.end) {
    p.widen(forward.q, s.plane, at, head, row.q);
    p.widen(p.call.dout, s.plane, at, head, row.dout);
    p.widen(forward.out, s.plane, at, head, row.out);
    const float delta = dot(row.dout, row.out, width);
    for (std::int64_t j = seen.begin; j < seen.end; ++j) {
      const float score = forward.scale * dot(row.q, k + j * width, width);
      const float value =
          score_value(p.rule, score, static_cast<int>(head), position - static_cast<int>(j));
      const float weight = std::exp(value - lse);
      row.p[j] = weight;
      row.ds[j] = weight * (dot(row.dout, v + j * width, width) - delta) *
                  score_derivative(p.rule, value) * forward.scale;
    }
    for (std::int64_t j = seen.begin; j < seen.end; ++j) {
      add_scaled(dv + j * width, row.p[j], row.dout, width);
      add_scaled(dk + j * width, row.ds[j], row.q, width);
      add_scaled(row.dq, row.ds[j], k + j * width, width);
    }
  }
  p.narrow(row.dq, p.call.dq, s.plane, at, head);
}

void differentiate(const Problem& p, const Sequence& s, std::int64_t kv_head, float* scratch) {
  const AttentionBatchCall& forward = p.call.forward;
  const std::int64_t width = forward.q.size(3), group = forward.q.size(2) / forward.k.size(2);
  const std::int64_t elements = s.keys * width;
  float *k = scratch, *v = k + elements, *dk = v + elements, *dv = dk + elements;
  float* rest = dv + elements;
  const Row row{rest,
                rest + width,
                rest + 2 * width,
                rest + 3 * width,
                rest + 4 * width,
                rest + 4 * width + s.keys};
  for (std::int64_t j = 0; j < s.keys; ++j) {
    p.widen(forward.k, s.plane, s.first_key + j, kv_head, k + j * width);
    p.widen(forward.v, s.plane, s.first_key + j, kv_head, v + j * width);
  }
  std::fill_n(dk, 2 * elements, 0.0f);
  for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (std::int64_t i = 0; i < s.queries && !p.context.stopping(); ++i) {
      differentiate_row(p, s, head, i, k, v, dk, dv, row);
    }
  }
  for (std::int64_t j = 0; j < s.keys; ++j) {
    p.narrow(dk + j * width, p.call.dk, s.plane, s.first_key + j, kv_head);
    p.narrow(dv + j * width, p.call.dv, s.plane, s.first_key + j, kv_head);
  }
}

}  // namespace

std::size_t attention_backward_scratch_bytes(int threads, const AttentionGradCall& call) {
  return static_cast<std::size_t>(threads * worker_floats(call)) * sizeof(float);
}

void attention_backward(const Context& context, const AttentionGradCall& call, Workspace scratch) {
  const AttentionBatchCall& forward = call.forward;
  const Problem p{context, call, forward.rule(), position_of(forward.position)};
  auto* base = scratch
                   .take(DType::kU8, {static_cast<std::int64_t>(
                                         attention_backward_scratch_bytes(context.threads, call))})
                   .as<float>();
  for (std::int64_t n = 0; n < forward.sequences(); ++n) sequence_of(forward, n);  // checks them
  const std::int64_t kv_heads = forward.k.size(2);
  const std::int64_t cost = forward.queries() * forward.keys() * forward.q.size(3);
  parallel_for(context, forward.sequences() * kv_heads, cost, [&](std::int64_t item, int worker) {
    differentiate(p, sequence_of(forward, item / kv_heads), item % kv_heads,
                  base + worker * worker_floats(call));
  });
}

}  // namespace engine::cpu
