#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

Values moe_linear(View x, View weight, std::span<const std::int32_t> chosen, std::int64_t top_k,
                  std::int64_t experts, std::int64_t inputs) {
  const auto columns = static_cast<std::size_t>(inputs);
  const std::size_t rows = chosen.size(), per_token = static_cast<std::size_t>(top_k);
  const std::size_t matrix = weight.size() / static_cast<std::size_t>(experts);
  const bool shared = x.size() != rows * columns;  // one row of x for all experts of a token
  ENGINE_REQUIRE(x.size() == (shared ? rows / per_token : rows) * columns, "moe_linear: ", x.size(),
                 " values for ", rows, " rows of ", inputs);
  Values out;
  for (std::size_t row = 0; row < rows; ++row) {
    const View from = x.subspan((shared ? row / per_token : row) * columns, columns);
    const View expert = weight.subspan(static_cast<std::size_t>(chosen[row]) * matrix, matrix);
    const Values result = linear(from, expert, {}, inputs);
    out.insert(out.end(), result.begin(), result.end());
  }
  return out;
}

}  // namespace engine::reference
