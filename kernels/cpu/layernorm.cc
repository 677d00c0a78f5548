// LayerNorm, a row per token.
#include "kernels/cpu/launchers.h"

namespace engine::cpu {

void layernorm(const Context& context, const LayerNormCall& call) {
  const auto norm = context.kernels->layernorm[type_index(call.x.dtype)];
  const bool f32_weights = call.weight.dtype == DType::kF32;
  parallel_for(context, call.x.size(0), call.x.size(1), [&](std::int64_t t, int) {
    norm(row_of(call.x, t), call.weight.data, call.bias.data, f32_weights, row_of(call.out, t),
         call.x.size(1), call.eps);
  });
}

}  // namespace engine::cpu
