// RMSNorm, a row per token.
#include "kernels/cpu/launchers.h"

namespace engine::cpu {

void rmsnorm(const Context& context, const RmsNormCall& call) {
  const auto norm = context.kernels->rmsnorm[type_index(call.x.dtype)];
  parallel_for(context, call.x.size(0), call.x.size(1), [&](std::int64_t t, int) {
    norm(row_of(call.x, t), call.weight.data, row_of(call.out, t), call.x.size(1), call.eps);
  });
}

}  // namespace engine::cpu
