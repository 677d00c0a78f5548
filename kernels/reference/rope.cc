#include <algorithm>

#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

Values rope(View x, View table, std::int64_t heads, std::int64_t head_size, std::int64_t position) {
  const auto width = static_cast<std::size_t>(head_size), half = width / 2;
  const std::size_t row = static_cast<std::size_t>(heads) * width;
  ENGINE_REQUIRE(row > 0 && x.size() % row == 0 && table.size() % width == 0, "rope: ", x.size(),
                 " and ", table.size(), " values over ", row);
  const auto last = static_cast<std::int64_t>(table.size() / width) - 1;
  Values out(x.size());
  for (std::size_t head = 0; head < x.size() / width; ++head) {
    const auto token = static_cast<std::int64_t>(head * width / row);
    const auto p = static_cast<std::size_t>(std::min(position + token, last));
    for (std::size_t i = 0; i < half; ++i) {
      const double cosine = table[p * width + i], sine = table[p * width + half + i];
      const double a = x[head * width + i], b = x[head * width + half + i];
      out[head * width + i] = a * cosine - b * sine;
      out[head * width + half + i] = b * cosine + a * sine;
    }
  }
  return out;
}

}  // namespace engine::reference
