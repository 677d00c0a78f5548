// The gate of the feed-forward: silu(gate) · up, in pieces of a row.
#include <algorithm>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {

void silu_mul(const Context& context, const SiluMulCall& call) {
  constexpr std::int64_t kPiece = 4096;
  const std::int64_t width = call.out.size(1), pieces = ceil_div(width, kPiece);
  const auto size = static_cast<std::int64_t>(dtype_size(call.out.dtype));
  const auto gated = context.kernels->silu_mul[type_index(call.out.dtype)];
  parallel_for(context, call.out.size(0) * pieces, std::min(width, kPiece),
               [&](std::int64_t item, int) {
                 const std::int64_t t = item / pieces, begin = item % pieces * kPiece;
                 gated(row_of(call.gate, t) + begin * size, row_of(call.up, t) + begin * size,
                       row_of(call.out, t) + begin * size, std::min(kPiece, width - begin));
               });
}

}  // namespace engine::cpu
