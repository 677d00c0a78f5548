#include "kernels/cuda/step/lower.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "kernels/core/check.h"
#include "kernels/cuda/aligned.h"
#include "kernels/cuda/step/connect.h"

namespace engine::cuda {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max() / 4;

std::int32_t narrow(std::int64_t value) {
  ENGINE_REQUIRE(value >= 0 && value <= kMost, "a step of size ", value);
  return static_cast<std::int32_t>(value);
}

bool fits(std::initializer_list<std::int64_t> sizes) {
  return std::all_of(sizes.begin(), sizes.end(),
                     [](std::int64_t size) { return size > 0 && size <= kMost; });
}

bool is_half(DType dtype) { return dtype == DType::kF16 || dtype == DType::kBF16; }

// A weight whose rows the kernel streams, with x of `dtype`.
bool streams(const Weight& weight, DType dtype) {
  return (weight.format == QuantFormat::kInt8 || weight.format == plain_format(dtype)) &&
         fits({weight.rows, weight.columns}) && weight.columns % 8 == 0 &&
         weight.columns <= kStepMaxColumns && is_vector_aligned(weight);
}

// Shared memory of the operand of a product: its values or digits, or both for a router's sake.
std::size_t operand_bytes(const Weight& weight, bool router = false) {
  const std::int32_t columns = narrow(weight.columns);
  const bool digits = weight.format == QuantFormat::kInt8;
  int bytes = !digits || router ? step_align(columns * 2) : 0;
  if (digits) bytes += kStepDigits * step_plane_bytes(columns);
  return static_cast<std::size_t>(step_align(bytes));
}

bool room_for(const CudaArch& arch, std::size_t x_bytes) {
  return step_slots(arch, x_bytes, kStepStaticBytes) >= kStepMinSlots;
}

// Adds to what a program knows of the position; false where that is another already.
bool join_position(StepPosition* program, const StepPosition& at) {
  const auto join = [](auto* mine, const auto& other) {
    if (*mine != nullptr && other != nullptr && *mine != other) return false;
    if (other != nullptr) *mine = other;
    return true;
  };
  if (!join(&program->position, at.position) || !join(&program->turns, at.turns)) return false;
  if (at.turns == nullptr) return true;
  if (program->turns_size != 0 &&
      (program->turns_size != at.turns_size || program->turns_stride != at.turns_stride ||
       program->turns_rows != at.turns_rows)) {
    return false;
  }
  program->turns_stride = at.turns_stride;
  program->turns_rows = at.turns_rows;
  program->turns_size = at.turns_size;
  return true;
}

// Whether the rows of every tile, in both halves of one of pairs, exist by eights, and their scales
// are whole vectors.
bool comes_by_eight(const StepStage& stage) {
  const bool scale_vectors =
      !stage.int8_weight || reinterpret_cast<std::uintptr_t>(stage.scales) % 16 == 0;
  return stage.rows % 8 == 0 && stage.half % 8 == 0 && scale_vectors;
}

// With a mixture the blocks end a stage further apart, and those ahead, if they begin the next
// early, take memory from those behind: slower (docs/performance.md).
bool has_mixture(const StepProgram& program) {
  return std::any_of(program.stages.begin(), program.stages.end(),
                     [](const StepStage& stage) { return stage.kind == StepKind::kMoeUp; });
}

// A product of int8 weights behind attention, of enough tiles, leaves the most of them to blocks
// without an item of that (one a head, while the context is short); so the next stage begins with
// blocks of those. With 16-bit weights a tile takes memory longer than the others are late.
bool spares_attention(const StepProgram& program, StepStage* stage) {
  if (program.stages.empty() || stage->kind != StepKind::kProduct ||
      stage->epilogue != StepEpilogue::kStore || !stage->int8_weight) {
    return false;
  }
  const StepStage& before = program.stages.back();
  if (before.kind != StepKind::kAttention || before.heads * 3 > program.blocks ||
      stage->tiles < program.blocks) {
    return false;
  }
  stage->heads = before.heads;
  return true;
}

// Appends stages made for elements of `dtype`, which need `x_bytes`, and `at` of the position;
// deals out their tiles.
bool append(const CudaArch& arch, StepProgram* program, DType dtype, std::size_t x_bytes,
            std::initializer_list<StepStage> stages, const StepPosition& at = {}) {
  const std::size_t most = std::max(program->x_bytes, x_bytes);
  const std::size_t count = program->stages.size() + stages.size();
  if (!room_for(arch, most) || count > static_cast<std::size_t>(kStepMaxStages)) return false;
  if (!program->stages.empty() && program->dtype != dtype) return false;
  StepProgram joined = *program;
  joined.dtype = dtype;
  joined.x_bytes = most;
  joined.blocks = arch.sms;
  if (!join_position(&joined.at, at)) return false;
  for (StepStage stage : stages) {
    if (!connect_inputs(&joined, &stage) || !keeps_order(joined, stage)) return false;
    drop_overwritten(&joined, stage);
    stage.by_eight = comes_by_eight(stage);
    if (stage.columns > 0) stage.per_column = 1.0f / static_cast<float>(stage.columns);
    if (stage.half > 0) stage.per_half = 1.0f / static_cast<float>(stage.half);
    stage.rotation = joined.tiles;
    joined.tiles += stage.tiles;
    if (spares_attention(joined, &stage)) {  // those behind a tile for every block
      const int others = arch.sms - stage.heads;
      joined.tiles = stage.rotation + stage.heads + (stage.tiles - arch.sms) % others;
    }
    joined.tiles %= arch.sms;
    joined.stages.push_back(stage);
  }
  const bool mixture = has_mixture(joined);
  for (StepStage& stage : joined.stages) stage.begins_early = !mixture;
  *program = std::move(joined);
  return true;
}

bool serves(const CudaArch& arch, DType dtype, std::int64_t tokens) {
  return arch.hopper() && tokens == 1 && is_half(dtype);
}

std::int32_t tiles_of(std::int64_t rows) { return narrow((rows + kStepRows - 1) / kStepRows); }

// The fields that every product has.
StepStage product(const Weight& weight, const void* x, void* out) {
  StepStage stage;
  stage.kind = StepKind::kProduct;
  stage.int8_weight = weight.format == QuantFormat::kInt8;
  stage.tiles = tiles_of(weight.rows);
  stage.columns = narrow(weight.columns);
  stage.rows = narrow(weight.rows);
  stage.x = x;
  stage.weight = weight.data;
  stage.scales = static_cast<const std::uint16_t*>(weight.scales);
  stage.out = out;
  return stage;
}

}  // namespace

int step_slots(const CudaArch& arch, std::size_t x_bytes, std::size_t static_bytes) {
  if (x_bytes + static_bytes >= arch.shared_bytes) return 0;
  const std::size_t room = arch.shared_bytes - x_bytes - static_bytes;
  return static_cast<int>(std::min<std::size_t>(room / kStepSlotBytes, kStepMaxSlots));
}

bool lower_call(const CudaArch& arch, const EmbedCall& call, StepProgram* program) {
  if (!serves(arch, call.out.dtype, call.out.size(0)) ||
      call.table.format != plain_format(call.out.dtype) ||
      !fits({call.table.rows, call.table.columns})) {
    return false;
  }
  StepStage stage = product(call.table, nullptr, call.out.data);
  stage.kind = StepKind::kEmbed;
  stage.tiles = 1;
  stage.ids = call.ids.as<const std::int32_t>();
  return append(arch, program, call.out.dtype, 0, {stage});
}

bool lower_call(const CudaArch& arch, const RmsNormCall& call, StepProgram* program) {
  const std::int64_t width = call.x.size(1);
  if (!serves(arch, call.x.dtype, call.x.size(0)) || !fits({width}) || width % 8 != 0 ||
      width > kStepMaxColumns || !is_vector_aligned(call.x) || !is_vector_aligned(call.out) ||
      !is_vector_aligned(call.weight)) {
    return false;
  }
  StepStage stage;
  stage.kind = StepKind::kNorm;
  stage.tiles = 1;
  stage.columns = narrow(width);
  stage.eps = call.eps;
  stage.x = call.x.data;
  stage.norm = call.weight.data;
  stage.normed = call.out.data;
  return append(arch, program, call.x.dtype, 0, {stage});
}

bool lower_call(const CudaArch& arch, const LinearCall& call, StepProgram* program) {
  if (call.bias || !serves(arch, call.x.dtype, call.x.size(0)) ||
      !streams(call.weight, call.x.dtype) || !is_vector_aligned(call.x)) {
    return false;
  }
  StepStage stage = product(call.weight, call.x.data, call.out.data);
  stage.f32_out = call.out.dtype == DType::kF32;
  if (call.residual) stage.residual = call.residual.data;
  const std::size_t bytes = operand_bytes(call.weight);
  // A norm just before this product is computed by every block for itself; not with a residual,
  // where the bits would not be those of the two ops (step/own_columns.cuh).
  if (!program->stages.empty() && program->dtype == call.x.dtype && !call.residual) {
    const StepStage& before = program->stages.back();
    if (before.kind == StepKind::kNorm && before.normed == stage.x &&
        before.columns == stage.columns) {
      stage.x = before.x;
      stage.norm = before.norm;
      stage.normed = before.normed;
      stage.eps = before.eps;
      StepProgram joined = *program;
      joined.stages.pop_back();
      joined.tiles = before.rotation;
      if (!append(arch, &joined, call.x.dtype, bytes, {stage})) return false;
      *program = std::move(joined);
      return true;
    }
  }
  return append(arch, program, call.x.dtype, bytes, {stage});
}

bool lower_call(const CudaArch& arch, const AttentionCall& call, StepProgram* program) {
  const std::int64_t heads = call.q.size(1), head_size = call.q.size(2);
  const std::int64_t kv_heads = call.k_cache.size(0), capacity = call.k_cache.size(1);
  const auto dense_rows = [&](const Tensor& cache) {
    return is_vector_aligned(cache) && (capacity == 1 || cache.stride(1) == head_size);
  };
  if (!serves(arch, call.q.dtype, call.q.size(0)) || call.lse ||
      !fits({heads, kv_heads, capacity}) || heads > kStepMaxUnits || head_size % 8 != 0 ||
      head_size > kStepMaxHeadSize || !dense_rows(call.k_cache) || !dense_rows(call.v_cache) ||
      !is_vector_aligned(call.q)) {
    return false;
  }
  StepStage stage;
  stage.kind = StepKind::kAttention;
  stage.x = call.q.data;
  stage.out = call.out.data;
  stage.k = call.k_cache.data;
  stage.v = call.v_cache.data;
  stage.k_head = call.k_cache.stride(0);
  stage.v_head = call.v_cache.stride(0);
  stage.q_head = call.q.stride(1);
  stage.out_head = call.out.stride(1);
  stage.heads = narrow(heads);
  stage.kv_heads = narrow(kv_heads);
  stage.group = narrow(heads / kv_heads);
  stage.head_size = narrow(head_size);
  stage.capacity = narrow(capacity);
  stage.window = static_cast<std::int32_t>(std::min<std::int64_t>(call.window, kMost));
  stage.scale = call.scale;
  const int head_tile = heads == kv_heads ? 1 : kStepHeadTile;
  const auto merged =
      static_cast<std::size_t>(head_tile * kStepWarps * step_record_floats(stage.head_size)) *
      sizeof(float);
  return append(arch, program, call.q.dtype,
                static_cast<std::size_t>(step_align(static_cast<int>(merged))), {stage},
                {.position = call.position.as<const std::int32_t>()});
}

bool lower_call(const CudaArch& arch, const AttentionInCall& call, StepProgram* program) {
  const std::int64_t head_size = call.q.size(2), capacity = call.k_cache.size(1);
  const auto dense_rows = [&](const Tensor& cache) {
    return capacity == 1 || cache.stride(1) == head_size;
  };
  if (!serves(arch, call.x.dtype, call.x.size(0)) || !streams(call.qkv, call.x.dtype) ||
      !is_vector_aligned(call.x) || !is_vector_aligned(call.norm) || head_size % 2 != 0 ||
      head_size > kStepMaxTurns || call.qkv.rows >= kStepMaxDivided || !fits({capacity}) ||
      !dense_rows(call.k_cache) || !dense_rows(call.v_cache)) {
    return false;
  }
  StepStage stage = product(call.qkv, call.x.data, call.q.data);
  stage.epilogue = StepEpilogue::kRope;
  stage.half = narrow(head_size / 2);
  stage.tiles = narrow((call.qkv.rows / 2 + 7) / 8);
  stage.eps = call.eps;
  stage.norm = call.norm.data;
  stage.k = call.k_cache.data;
  stage.v = call.v_cache.data;
  stage.k_head = call.k_cache.stride(0);
  stage.v_head = call.v_cache.stride(0);
  stage.q_head = call.q.stride(1);
  stage.heads = narrow(call.q.size(1));
  stage.kv_heads = narrow(call.k_cache.size(0));
  stage.head_size = narrow(head_size);
  stage.capacity = narrow(capacity);
  return append(arch, program, call.x.dtype, operand_bytes(call.qkv), {stage},
                {.position = call.position.as<const std::int32_t>(),
                 .turns = call.rope_table.as<const float>(),
                 .turns_stride = call.rope_table.stride(0),
                 .turns_rows = narrow(call.rope_table.size(0)),
                 .turns_size = narrow(head_size)});
}

bool lower_call(const CudaArch& arch, const AttentionOutCall& call, StepProgram* program) {
  return lower_call(
      arch,
      LinearCall{.out = call.x, .x = call.attention, .weight = call.output, .residual = call.x},
      program);
}

bool lower_call(const CudaArch& arch, const FeedForwardCall& call, Workspace scratch,
                StepProgram* program) {
  if (!serves(arch, call.x.dtype, call.x.size(0)) || !streams(call.gate_up, call.x.dtype) ||
      !streams(call.down, call.x.dtype) || !is_vector_aligned(call.x) ||
      !is_vector_aligned(call.norm)) {
    return false;
  }
  const Tensor inner = scratch.take(call.x.dtype, {1, call.down.columns});
  StepStage up = product(call.gate_up, call.x.data, inner.data);
  up.epilogue = StepEpilogue::kSilu;
  up.half = narrow(call.down.columns);
  up.tiles = narrow((call.down.columns + 7) / 8);
  up.eps = call.eps;
  up.norm = call.norm.data;
  StepStage down = product(call.down, inner.data, call.x.data);
  down.residual = call.x.data;
  const std::size_t bytes = std::max(operand_bytes(call.gate_up), operand_bytes(call.down));
  return append(arch, program, call.x.dtype, bytes, {up, down});
}

bool lower_call(const CudaArch& arch, const MoeFeedForwardCall& call, Workspace scratch,
                StepProgram* program) {
  const std::int64_t width = call.x.size(1), inner_size = call.down.columns;
  if (!serves(arch, call.x.dtype, call.x.size(0)) || !streams(call.gate_up, call.x.dtype) ||
      !streams(call.down, call.x.dtype) || call.router.format != plain_format(call.x.dtype) ||
      !streams(call.router, call.x.dtype) || !is_vector_aligned(call.x) ||
      !is_vector_aligned(call.norm) || call.experts > kStepMaxExperts ||
      call.top_k > kStepMaxTopK || tiles_of(width) > arch.sms * kStepMaxOpenTiles) {
    return false;
  }
  const Tensor inner = scratch.take(call.x.dtype, {call.top_k, inner_size});
  StepStage up = product(call.gate_up, call.x.data, inner.data);
  up.kind = StepKind::kMoeUp;
  up.epilogue = StepEpilogue::kSilu;
  up.rows = narrow(2 * inner_size);
  up.half = narrow(inner_size);
  up.tiles = narrow((inner_size + 7) / 8 * call.top_k);
  up.eps = call.eps;
  up.norm = call.norm.data;
  up.router = call.router.data;
  up.experts = narrow(call.experts);
  up.top_k = narrow(call.top_k);
  up.holds_router = width <= kStepConsumers * 8 && call.experts <= kStepHeldExperts;
  StepStage down = product(call.down, inner.data, call.x.data);
  down.kind = StepKind::kMoeDown;
  down.rows = narrow(width);
  down.tiles = tiles_of(width);
  down.residual = call.x.data;
  down.experts = up.experts;
  down.top_k = up.top_k;
  const std::size_t bytes = std::max(operand_bytes(call.gate_up, true), operand_bytes(call.down));
  // Every block reads x, at its own time, and down overwrites it: it has to come from the exchange.
  StepProgram copied = *program;
  StepStage copy;
  copy.kind = StepKind::kNorm;
  copy.tiles = 1;
  copy.columns = narrow(width);
  copy.x = call.x.data;
  if (!reads_earlier_stage(*program, copy)) {
    copy.exchange = up.x_exchange = down.residual_exchange = reserve_exchange(&copied, width);
    if (!append(arch, &copied, call.x.dtype, 0, {copy})) return false;
  }
  if (!append(arch, &copied, call.x.dtype, bytes, {up, down})) return false;
  *program = std::move(copied);
  return true;
}

bool lower_call(const CudaArch& arch, const Call& call, Workspace scratch, StepProgram* program) {
  return std::visit(
      [&](const auto& c) {
        using C = std::decay_t<decltype(c)>;
        if constexpr (std::is_same_v<C, FeedForwardCall> || std::is_same_v<C, MoeFeedForwardCall>) {
          return lower_call(arch, c, scratch, program);
        } else if constexpr (std::is_same_v<C, EmbedCall> || std::is_same_v<C, RmsNormCall> ||
                             std::is_same_v<C, LinearCall> || std::is_same_v<C, AttentionCall> ||
                             std::is_same_v<C, AttentionInCall> ||
                             std::is_same_v<C, AttentionOutCall>) {
          return lower_call(arch, c, program);
        } else {
          return false;
        }
      },
      call);
}

}  // namespace engine::cuda
