#include "kernels/cuda/attention_backward.h"

#include "kernels/core/check.h"

namespace engine::cuda {
namespace {

constexpr std::size_t kAlign = 256;

std::size_t aligned(std::size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// The parts of the scratch memory, in bytes.
struct Parts {
  std::size_t rows, dq, counters;
};

Parts parts_of(const AttentionBackwardCall& call, const AttentionBackwardPlan& plan) {
  const auto tiles = static_cast<std::size_t>(backward_tiles(call) * call.heads);
  Parts parts{aligned(tiles * kBackwardQueryTile * sizeof(float)), 0, 0};
  if (plan.kernel == AttentionBackwardKernel::kSm90) {
    parts.dq = aligned(tiles * kBackwardQueryTile * static_cast<std::size_t>(plan.head_bucket) *
                       sizeof(float));
    parts.counters = aligned((2 * tiles + 1) * sizeof(std::uint32_t));
  }
  return parts;
}

}  // namespace

std::int64_t backward_tiles(const AttentionBackwardCall& call) {
  // Each sequence of a ragged batch begins a tile: one more than its rows fill at most.
  if (call.query_offsets != nullptr) return call.query_total / kBackwardQueryTile + call.batch;
  return call.batch * ((call.queries + kBackwardQueryTile - 1) / kBackwardQueryTile);
}

std::size_t backward_scratch_bytes(const AttentionBackwardCall& call,
                                   const AttentionBackwardPlan& plan) {
  const Parts parts = parts_of(call, plan);
  return 2 * parts.rows + parts.dq + parts.counters;
}

BackwardScratch backward_scratch(const AttentionBackwardCall& call,
                                 const AttentionBackwardPlan& plan, void* scratch) {
  const Parts parts = parts_of(call, plan);
  auto* bytes = static_cast<std::byte*>(scratch);
  BackwardScratch s;
  s.minus_lse = reinterpret_cast<float*>(bytes);
  s.minus_delta = reinterpret_cast<float*>(bytes + parts.rows);
  s.dq = reinterpret_cast<float*>(bytes + 2 * parts.rows);
  s.counters = reinterpret_cast<std::uint32_t*>(bytes + 2 * parts.rows + parts.dq);
  s.tiles = backward_tiles(call);
  s.counter_count = parts.counters == 0 ? 0 : 2 * s.tiles * call.heads + 1;
  return s;
}

void attention_backward(CudaContext& context, const AttentionBackwardCall& call,
                        const AttentionBackwardPlan& plan, void* scratch) {
  const BackwardScratch parts = backward_scratch(call, plan, scratch);
  attention_backward_rows(context, call, plan, parts);
  const bool f16 = call.dtype == DType::kF16;
  switch (plan.kernel) {
    case AttentionBackwardKernel::kSm90:
      if (f16) {
        sm90_attention_backward_f16(context, call, plan, parts);
      } else if (plan.form == ScoreForm::kOffset) {
        sm90_attention_backward_bf16(context, call, plan, parts);
      } else {
        sm90_attention_backward_scores(context, call, plan, parts);
      }
      return attention_backward_convert(context, call, plan, parts);
    case AttentionBackwardKernel::kTiles:
      return f16 ? attention_backward_tiles_f16(context, call, plan, parts)
                 : attention_backward_tiles_bf16(context, call, plan, parts);
    case AttentionBackwardKernel::kPlain:
      return attention_backward_plain(context, call, parts);
  }
}

}  // namespace engine::cuda
