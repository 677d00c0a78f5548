// GELU by its tanh approximation, in pieces of a row.
#include <algorithm>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {

void gelu(const Context& context, const GeluCall& call) {
  constexpr std::int64_t kPiece = 4096;
  const std::int64_t width = call.out.size(1), pieces = ceil_div(width, kPiece);
  const auto size = static_cast<std::int64_t>(dtype_size(call.out.dtype));
  const auto activate = context.kernels->gelu[type_index(call.out.dtype)];
  parallel_for(context, call.out.size(0) * pieces, std::min(width, kPiece),
               [&](std::int64_t item, int) {
                 const std::int64_t t = item / pieces, begin = item % pieces * kPiece;
                 activate(row_of(call.x, t) + begin * size, row_of(call.out, t) + begin * size,
                          std::min(kPiece, width - begin));
               });
}

}  // namespace engine::cpu
