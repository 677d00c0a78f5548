// Token embedding: one row of the table per token, converted to the activation type.
#include <algorithm>
#include <limits>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {
void embed(const Context& context, const EmbedCall& call) {
  const std::int64_t width = call.out.size(1);
  const auto* table = static_cast<const std::byte*>(call.table.data);
  const DType stored = storage_dtype(call.table.format);
  const std::size_t stored_bytes = dtype_size(stored);
  const std::size_t out_bytes = dtype_size(call.out.dtype);
  const auto widen = context.kernels->to_float[type_index(stored)];
  const auto narrow = context.kernels->from_float[type_index(call.out.dtype)];
  parallel_for(context, call.out.size(0), width, [&](std::int64_t t, int) {
    constexpr std::int64_t kPiece = 256;
    float piece[kPiece];
    const std::int64_t id = call.ids.as<std::int32_t>()[t * call.ids.stride(0)];
    const bool known = id >= 0 && id < call.table.rows;
    const std::byte* row = table + static_cast<std::size_t>(known ? id * width : 0) * stored_bytes;
    std::byte* out = row_of(call.out, t);
    for (std::int64_t d = 0; d < width; d += kPiece) {
      const std::int64_t count = std::min(kPiece, width - d);
      if (known) {
        widen(row + static_cast<std::size_t>(d) * stored_bytes, piece, count);
      } else {
        std::fill_n(piece, count, std::numeric_limits<float>::quiet_NaN());
      }
      narrow(piece, out + static_cast<std::size_t>(d) * out_bytes, count);
    }
  });
}

}  // namespace engine::cpu
