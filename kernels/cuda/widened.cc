// Linears of int8 weights over many rows by cuBLASLt: the pieces, and what serves each.
#include "kernels/cuda/widened.h"

#include <algorithm>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {

Weight rows_of(const Weight& weight, std::int64_t first, std::int64_t count) {
  const FormatInfo& info = format_info(weight.format);
  const auto row_bytes =
      static_cast<std::int64_t>(info.row_bytes(static_cast<std::size_t>(weight.columns)));
  const auto scale_bytes = static_cast<std::int64_t>(info.scale_bytes);
  Weight rows = weight;
  rows.data = static_cast<const std::byte*>(weight.data) + first * row_bytes;
  if (weight.scales != nullptr) {
    rows.scales = static_cast<const std::byte*>(weight.scales) + first * scale_bytes;
  }
  rows.rows = count;
  return rows;
}

WidenedPlan CudaOps::widened_plan(const Tensor& x, const Weight& weight, bool aligned) const {
  if (!matmul_.enabled()) return {};
  return choose_widened({.tokens = x.size(0),
                         .x = x.dtype,
                         .weight = weight.format,
                         .outputs = weight.rows,
                         .columns = weight.columns,
                         .aligned = aligned});
}

std::size_t CudaOps::linear_scratch_bytes(const LinearCall& call) const {
  // Addresses may be a dry run's: the need is that of aligned operands, the most there is.
  const WidenedPlan plan = widened_plan(call.x, call.weight, true);
  if (!plan.serves) return 0;
  std::size_t bytes = 0;
  Workspace scratch = Workspace::dry_run(call.x.device, &bytes);
  scratch.take(DType::kU8, {static_cast<std::int64_t>(plan.weight_bytes)});
  scratch.take(DType::kU8, {static_cast<std::int64_t>(plan.sum_bytes)});
  return bytes;
}

void CudaOps::linear_widened(const LinearCall& call, const WidenedPlan& plan, Workspace scratch) {
  void* widened = scratch.take(DType::kU8, {static_cast<std::int64_t>(plan.weight_bytes)}).data;
  void* memory = scratch.take(DType::kU8, {static_cast<std::int64_t>(plan.sum_bytes)}).data;
  for (std::int64_t n = 0; n < call.weight.rows; n += plan.outputs) {
    const std::int64_t outputs = std::min(plan.outputs, call.weight.rows - n);
    const Weight rows = rows_of(call.weight, n, outputs);
    const Weight plain = widen_weight(context_, rows, call.x.dtype, widened);
    for (std::int64_t t = 0; t < call.x.size(0); t += plan.tokens) {
      const std::int64_t tokens = std::min(plan.tokens, call.x.size(0) - t);
      const auto piece_of = [&](const Tensor& whole) {
        return whole ? whole.slice(0, t, tokens).slice(1, n, outputs) : Tensor{};
      };
      const LinearCall piece{.out = piece_of(call.out),
                             .x = call.x.slice(0, t, tokens),
                             .weight = rows,
                             .residual = piece_of(call.residual)};
      const Tensor sums = Tensor::contiguous(memory, DType::kF32, call.x.device, {tokens, outputs});
      if (matmul_.linear({.out = sums, .x = piece.x, .weight = plain, .residual = {}})) {
        finish_widened(context_, piece, sums);
      } else {
        linear_int8(context_, piece);
      }
    }
  }
}

bool CudaOps::attention_in_widened(const AttentionInCall& call, const Tensor& hidden,
                                   const WidenedPlan& plan, Workspace scratch) {
  if (plan.outputs < call.qkv.rows) return false;
  context_.begin_op("attention_in");
  void* widened = scratch.take(DType::kU8, {static_cast<std::int64_t>(plan.weight_bytes)}).data;
  void* memory = scratch.take(DType::kU8, {static_cast<std::int64_t>(plan.sum_bytes)}).data;
  const Weight plain = widen_weight(context_, call.qkv, hidden.dtype, widened);
  for (std::int64_t t = 0; t < hidden.size(0); t += plan.tokens) {
    const std::int64_t tokens = std::min(plan.tokens, hidden.size(0) - t);
    const Tensor sums =
        Tensor::contiguous(memory, DType::kF32, hidden.device, {tokens, call.qkv.rows});
    const Tensor x = hidden.slice(0, t, tokens);
    if (!matmul_.linear({.out = sums, .x = x, .weight = plain, .residual = {}})) return false;
    rope_append(context_, call, sums, t, call.qkv.scales);
  }
  return true;
}

// The default body, with sums of gate and up that silu_mul scales.
bool CudaOps::feed_forward_widened(const FeedForwardCall& call, const WidenedPlan& plan,
                                   Workspace scratch) {
  begin("feed_forward", call);
  const std::int64_t tokens = call.x.size(0), width = call.down.columns;
  const Tensor hidden = scratch.take(call.x.dtype, call.x.shape);
  const Tensor gate_up = scratch.take(call.x.dtype, {tokens, 2 * width});
  const Tensor gate = gate_up.slice(1, 0, width), up = gate_up.slice(1, width, width);
  rmsnorm({.out = hidden, .x = call.x, .weight = call.norm, .eps = call.eps});
  context_.begin_op("feed_forward");
  Workspace pieces = scratch;
  void* widened = pieces.take(DType::kU8, {static_cast<std::int64_t>(plan.weight_bytes)}).data;
  for (std::int64_t n = 0; n < call.gate_up.rows; n += plan.outputs) {
    const std::int64_t outputs = std::min(plan.outputs, call.gate_up.rows - n);
    const Weight plain =
        widen_weight(context_, rows_of(call.gate_up, n, outputs), call.x.dtype, widened);
    const Tensor sums = gate_up.slice(1, n, outputs);
    if (!matmul_.linear({.out = sums, .x = hidden, .weight = plain, .residual = {}})) return false;
  }
  const auto* scales = static_cast<const std::uint16_t*>(call.gate_up.scales);
  scaled_silu_mul(context_, {.out = gate, .gate = gate, .up = up}, scales, scales + width);
  linear({.out = call.x, .x = gate, .weight = call.down, .residual = call.x}, scratch);
  return true;
}

}  // namespace engine::cuda
