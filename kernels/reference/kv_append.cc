#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

void kv_append(Values& cache, View rows, std::int64_t kv_heads, std::int64_t head_size,
               std::int64_t position) {
  const auto groups = static_cast<std::size_t>(kv_heads),
             width = static_cast<std::size_t>(head_size);
  ENGINE_REQUIRE(groups * width > 0 && cache.size() % (groups * width) == 0 &&
                     rows.size() % (groups * width) == 0 && position >= 0,
                 "kv_append: ", rows.size(), " values into ", cache.size());
  const std::size_t capacity = cache.size() / (groups * width);
  for (std::size_t t = 0; t < rows.size() / (groups * width); ++t) {
    const std::size_t p = static_cast<std::size_t>(position) + t;
    if (p >= capacity) continue;
    for (std::size_t g = 0; g < groups; ++g) {
      for (std::size_t i = 0; i < width; ++i) {
        cache[(g * capacity + p) * width + i] = rows[(t * groups + g) * width + i];
      }
    }
  }
}

}  // namespace engine::reference
