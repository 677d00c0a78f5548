#include <limits>

#include "kernels/reference/reference.h"

namespace engine::reference {

Values embed(View table, std::int64_t width, std::span<const std::int32_t> ids) {
  const auto columns = static_cast<std::size_t>(width);
  const std::size_t rows = table.size() / columns;
  Values out;
  for (const std::int32_t id : ids) {
    const bool known = id >= 0 && static_cast<std::size_t>(id) < rows;
    for (std::size_t i = 0; i < columns; ++i) {
      out.push_back(known ? table[static_cast<std::size_t>(id) * columns + i]
                          : std::numeric_limits<double>::quiet_NaN());
    }
  }
  return out;
}

}  // namespace engine::reference
