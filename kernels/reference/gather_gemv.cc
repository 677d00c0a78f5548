#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

Values gather_gemv(View x, View weight, std::span<const std::int32_t> chosen,
                   std::int64_t experts) {
  const std::size_t matrix = weight.size() / static_cast<std::size_t>(experts);
  Values out;
  for (const std::int32_t expert : chosen) {
    ENGINE_REQUIRE(expert >= 0 && expert < experts, "gather_gemv: expert ", expert);
    const View from = weight.subspan(static_cast<std::size_t>(expert) * matrix, matrix);
    const Values row = linear(x, from, {}, static_cast<std::int64_t>(x.size()));
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

}  // namespace engine::reference
