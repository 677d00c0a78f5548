// Copies the keys and values of a step into the cache.
#include <cstring>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {

void kv_append(const Context& context, const KvAppendCall& call) {
  const std::int64_t capacity = call.k_cache.size(1);
  const std::int64_t position = *call.position.as<std::int32_t>();
  const std::size_t bytes = static_cast<std::size_t>(call.k.size(2)) * dtype_size(call.k.dtype);
  parallel_for(context, call.k.size(0), call.k.size(1) * call.k.size(2), [&](std::int64_t t, int) {
    const std::int64_t p = position + t;
    if (p < 0 || p >= capacity) return;
    for (std::int64_t g = 0; g < call.k.size(1); ++g) {
      std::memcpy(row_of(call.k_cache, g, p), row_of(call.k, t, g), bytes);
      std::memcpy(row_of(call.v_cache, g, p), row_of(call.v, t, g), bytes);
    }
  });
}

}  // namespace engine::cpu
