// Rotary position embedding: each token's row of the table turns all of its heads.
#include <algorithm>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {

void rope(const Context& context, const RopeCall& call) {
  const auto turn = context.kernels->rope[type_index(call.x.dtype)];
  const std::int64_t half = call.x.size(2) / 2, last = call.table.size(0) - 1;
  const std::int64_t position = *call.position.as<std::int32_t>();
  parallel_for(context, call.x.size(0), call.x.size(1) * call.x.size(2), [&](std::int64_t t, int) {
    const std::int64_t p = std::clamp<std::int64_t>(position + t, 0, last);
    const auto* table_row = reinterpret_cast<const float*>(row_of(call.table, p));
    for (std::int64_t h = 0; h < call.x.size(1); ++h) {
      turn(row_of(call.x, t, h), table_row, row_of(call.out, t, h), half);
    }
  });
}

}  // namespace engine::cpu
