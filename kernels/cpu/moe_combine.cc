// The outputs of a token's experts, weighted and added to the residual, in pieces of a row.
#include <algorithm>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {

void moe_combine(const Context& context, const MoeCombineCall& call) {
  constexpr std::int64_t kPiece = 512;
  const std::int64_t width = call.y.size(2), top_k = call.y.size(1);
  const std::int64_t pieces = ceil_div(width, kPiece);
  const auto size = static_cast<std::int64_t>(dtype_size(call.y.dtype));
  const auto widen = context.kernels->to_float[type_index(call.y.dtype)];
  const auto narrow = context.kernels->from_float[type_index(call.y.dtype)];
  parallel_for(context, call.y.size(0) * pieces, std::min(kPiece, width) * (top_k + 2),
               [&](std::int64_t item, int) {
                 float sums[kPiece], outputs[kPiece];
                 const std::int64_t t = item / pieces, begin = item % pieces * kPiece;
                 const std::int64_t count = std::min(kPiece, width - begin);
                 const auto* weights = reinterpret_cast<const float*>(row_of(call.weights, t));
                 widen(row_of(call.residual, t) + begin * size, sums, count);
                 for (std::int64_t s = 0; s < top_k; ++s) {
                   widen(row_of(call.y, t, s) + begin * size, outputs, count);
                   for (std::int64_t i = 0; i < count; ++i) sums[i] += weights[s] * outputs[i];
                 }
                 narrow(sums, row_of(call.out, t) + begin * size, count);
               });
}

}  // namespace engine::cpu
