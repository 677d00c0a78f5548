// mlp_layer_norm: for one token two GEMVs, of which the second normalises what the first left, and
// a norm; for many tokens cuBLASLt with bias and GELU in its epilogue. Its default body else.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/vector_gemv.h"

namespace engine::cuda {
namespace {

VectorGemvProblem problem_of(const Tensor& x, const Weight& weight, bool aligned, bool norm) {
  return {.rows = weight.rows,
          .columns = weight.columns,
          .x = x.dtype,
          .weight = weight.format,
          .aligned = aligned && is_vector_aligned(weight),
          .norm = norm};
}

VectorGemv product_of(const Tensor& x, const Weight& weight, const Tensor& bias,
                      const Tensor& out) {
  return {.x = x.data,
          .weight = weight.data,
          .bias = bias.data,
          .out = out.data,
          .out_stride = weight.rows,
          .outputs = static_cast<int>(weight.rows),
          .columns = static_cast<int>(weight.columns),
          .rows = static_cast<int>(weight.rows)};
}

}  // namespace

bool CudaOps::mlp_of_one_token(const MlpLayerNormCall& call, const Tensor& inner) {
  const QuantFormat plain = plain_format(call.x.dtype);
  const bool aligned = is_vector_aligned(call.x) && is_vector_aligned(call.inner_weight) &&
                       is_vector_aligned(call.inner_bias);
  const VectorGemvProblem up = problem_of(call.x, call.up, aligned, false);
  const VectorGemvProblem down = problem_of(call.x, call.down, aligned, true);
  const CudaArch& arch = context_.arch();
  if (call.up.format != plain || call.down.format != plain ||
      choose_vector_gemv(arch, up).kernel == VectorGemvKernel::kPlain ||
      choose_vector_gemv(arch, down).kernel == VectorGemvKernel::kPlain) {
    return false;
  }
  vector_gemv(context_, product_of(call.x, call.up, call.up_bias, inner), up);
  VectorGemv second = product_of(inner, call.down, call.down_bias, call.out);
  second.norm_weight = call.inner_weight.data;
  second.norm_bias = call.inner_bias.data;
  second.f32_norm = call.inner_weight.dtype == DType::kF32;
  second.gelu = call.gelu;
  second.eps = call.eps;
  vector_gemv(context_, second, down);
  return true;
}

void CudaOps::mlp_layer_norm(const MlpLayerNormCall& call, Workspace scratch) {
  begin("mlp_layer_norm", call);
  const std::int64_t tokens = call.x.size(0);
  if (call.out.numel() == 0 || call.up.rows == 0 || call.up.columns == 0) {
    return Ops::mlp_layer_norm(call, scratch);
  }
  Workspace whole = scratch;
  const Tensor inner = scratch.take(call.x.dtype, {tokens, call.up.rows});
  if (tokens == 1) {
    if (!mlp_of_one_token(call, inner)) return Ops::mlp_layer_norm(call, whole);
    return layernorm_of_mlp(call);
  }
  const LinearCall up{
      .out = inner, .x = call.x, .weight = call.up, .residual = {}, .bias = call.up_bias};
  // cuBLASLt's GELU is less exact than fp32.
  const bool fused = call.gelu && call.x.dtype != DType::kF32 &&
                     call.up.format == plain_format(call.x.dtype) && is_vector_aligned(call.x) &&
                     is_vector_aligned(call.up) && tokens > kGemvTokens && matmul_.linear(up, true);
  if (!fused) return Ops::mlp_layer_norm(call, whole);
  mlp_behind_inner(call, inner, scratch);
}

}  // namespace engine::cuda
