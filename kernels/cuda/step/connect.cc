#include "kernels/cuda/step/connect.h"

#include <algorithm>
#include <cstddef>

#include "kernels/core/check.h"

namespace engine::cuda {
namespace {

struct Span {
  const void* data = nullptr;
  std::int64_t bytes = 0;
};

bool overlap(const Span& a, const Span& b) {
  if (a.data == nullptr || b.data == nullptr) return false;
  const auto begin = [](const Span& s) { return reinterpret_cast<std::uintptr_t>(s.data); };
  const auto end = [&](const Span& s) { return begin(s) + static_cast<std::uintptr_t>(s.bytes); };
  return begin(a) < end(b) && begin(b) < end(a);
}

bool same(const Span& a, const Span& b) { return a.data == b.data && a.bytes == b.bytes; }

std::int64_t strided(std::int64_t heads, std::int64_t apart, std::int64_t head_size) {
  return ((heads - 1) * apart + head_size) * 2;
}

bool has_rope(const StepStage& stage) {
  return stage.kind == StepKind::kProduct && stage.epilogue == StepEpilogue::kRope;
}

std::int64_t choices(const StepStage& stage) { return stage.top_k > 0 ? stage.top_k : 1; }

// What a stage computes, as it lies in memory; of q, k and v, q.
Span result_of(const StepStage& stage) {
  switch (stage.kind) {
    case StepKind::kNorm:
      return {stage.normed, std::int64_t{stage.columns} * 2};
    case StepKind::kEmbed:
      return {stage.out, std::int64_t{stage.columns} * 2};
    case StepKind::kAttention:
      return {stage.out, strided(stage.heads, stage.out_head, stage.head_size)};
    case StepKind::kProduct:
    case StepKind::kMoeUp:
    case StepKind::kMoeDown:
      break;
  }
  if (has_rope(stage)) return {stage.out, strided(stage.heads, stage.q_head, stage.head_size)};
  if (stage.epilogue == StepEpilogue::kSilu) {
    return {stage.out, choices(stage) * stage.half * 2};
  }
  return {stage.out, std::int64_t{stage.rows} * (stage.f32_out ? 4 : 2)};
}

// The same in elements of the exchange.
std::int64_t exchanged_elements(const StepStage& stage) {
  if (stage.kind == StepKind::kAttention) return std::int64_t{stage.heads} * stage.head_size;
  if (has_rope(stage)) return stage.rows;
  return result_of(stage).bytes / 2;
}

// The normalised x that a product leaves beside its result.
Span side_result_of(const StepStage& stage) {
  if (stage.kind == StepKind::kNorm) return {};
  return {stage.normed, std::int64_t{stage.columns} * 2};
}

Span x_of(const StepStage& stage) {
  if (stage.kind == StepKind::kEmbed) return {};
  if (stage.kind == StepKind::kAttention) {
    return {stage.x, strided(stage.heads, stage.q_head, stage.head_size)};
  }
  const std::int64_t slots = stage.kind == StepKind::kMoeDown ? choices(stage) : 1;
  return {stage.x, slots * stage.columns * 2};
}

Span residual_of(const StepStage& stage) {
  return {stage.residual, std::int64_t{stage.rows} * (stage.f32_out ? 4 : 2)};
}

// Whether the exchange has the elements of a result in the order in which they lie.
bool exchanges_in_order(const StepStage& stage) {
  if (stage.kind == StepKind::kAttention) {
    return stage.heads == 1 || stage.out_head == stage.head_size;
  }
  if (has_rope(stage)) return stage.heads == 1 || stage.q_head == stage.head_size;
  return !stage.f32_out;
}

// Where a stage puts its result in the exchange.
std::int32_t exchange_of(StepProgram* program, StepStage* stage) {
  if (stage->exchange < 0) stage->exchange = reserve_exchange(program, exchanged_elements(*stage));
  return stage->exchange;
}

bool overwrites(const StepStage& stage, const Span& span) {
  return overlap(result_of(stage), span) || overlap(side_result_of(stage), span);
}

// Finds who computes `span`; false where that is not the whole of a result in its order.
bool connect(StepProgram* program, const Span& span, std::int32_t* offset) {
  for (auto stage = program->stages.rbegin(); stage != program->stages.rend(); ++stage) {
    if (!overwrites(*stage, span)) continue;
    if (!same(result_of(*stage), span) || !exchanges_in_order(*stage)) return false;
    *offset = exchange_of(program, &*stage);
    return true;
  }
  return true;
}

// q, and with it this step's own key and value.
bool connect_attention(StepProgram* program, StepStage* attention) {
  for (auto stage = program->stages.rbegin(); stage != program->stages.rend(); ++stage) {
    const bool appends = has_rope(*stage) && (stage->k == attention->k || stage->v == attention->v);
    if (!appends && !overwrites(*stage, x_of(*attention))) continue;
    if (!appends || stage->k != attention->k || stage->v != attention->v ||
        stage->k_head != attention->k_head || stage->v_head != attention->v_head ||
        stage->capacity != attention->capacity || stage->heads != attention->heads ||
        stage->kv_heads != attention->kv_heads || stage->head_size != attention->head_size ||
        stage->q_head != attention->q_head || !same(result_of(*stage), x_of(*attention))) {
      return false;
    }
    attention->x_exchange = exchange_of(program, &*stage);
    return true;
  }
  return true;
}

// Whether a block that computes `stage` has waited for the whole of `earlier`, or for stages whose
// blocks have. Attention by itself waits for a head alone.
bool follows(const StepProgram& program, const StepStage& stage, const StepStage& earlier) {
  if (stage.kind == StepKind::kAttention) return false;
  std::int32_t offset = stage.x_exchange;
  while (offset >= 0) {
    const auto found =
        std::find_if(program.stages.begin(), program.stages.end(),
                     [&](const StepStage& candidate) { return candidate.exchange == offset; });
    if (found == program.stages.end()) return false;
    if (&*found == &earlier) return true;
    offset = found->x_exchange;
  }
  return false;
}

}  // namespace

std::int32_t reserve_exchange(StepProgram* program, std::int64_t elements) {
  const std::size_t first = program->exchange;
  program->exchange += (static_cast<std::size_t>(elements) + 7) / 8 * 8;
  ENGINE_REQUIRE(program->exchange <= std::size_t{1} << 30, "a step that exchanges ",
                 program->exchange, " elements");
  return static_cast<std::int32_t>(first);
}

bool reads_earlier_stage(const StepProgram& program, const StepStage& stage) {
  for (const StepStage& earlier : program.stages) {
    if (overwrites(earlier, x_of(stage))) return true;
  }
  return false;
}

bool connect_inputs(StepProgram* program, StepStage* stage) {
  if (stage->kind == StepKind::kAttention) return connect_attention(program, stage);
  if (stage->x_exchange < 0 && !connect(program, x_of(*stage), &stage->x_exchange)) return false;
  return stage->residual_exchange >= 0 ||
         connect(program, residual_of(*stage), &stage->residual_exchange);
}

bool keeps_order(const StepProgram& program, const StepStage& stage) {
  for (const StepStage& earlier : program.stages) {
    const bool reads_here =
        (earlier.x_exchange < 0 && overwrites(stage, x_of(earlier))) ||
        (earlier.residual_exchange < 0 && overwrites(stage, residual_of(earlier)));
    if (reads_here && !follows(program, stage, earlier)) return false;
  }
  return true;
}

void drop_overwritten(StepProgram* program, const StepStage& stage) {
  for (StepStage& earlier : program->stages) {
    if (overwrites(stage, result_of(earlier))) earlier.stores_out = false;
    if (overwrites(stage, side_result_of(earlier))) earlier.normed = nullptr;
  }
}

}  // namespace engine::cuda
