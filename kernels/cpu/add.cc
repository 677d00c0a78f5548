// Elementwise sum, in pieces of a row.
#include <algorithm>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {

void add(const Context& context, const AddCall& call) {
  constexpr std::int64_t kPiece = 8192;
  const std::int64_t width = call.out.size(1), pieces = ceil_div(width, kPiece);
  const auto size = static_cast<std::int64_t>(dtype_size(call.out.dtype));
  const auto sum = context.kernels->add[type_index(call.out.dtype)];
  parallel_for(context, call.out.size(0) * pieces, std::min(width, kPiece),
               [&](std::int64_t item, int) {
                 const std::int64_t t = item / pieces, begin = item % pieces * kPiece;
                 sum(row_of(call.a, t) + begin * size, row_of(call.b, t) + begin * size,
                     row_of(call.out, t) + begin * size, std::min(kPiece, width - begin));
               });
}

}  // namespace engine::cpu
