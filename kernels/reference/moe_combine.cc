#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

Values moe_combine(View y, View weights, View residual, std::int64_t top_k) {
  const auto per_token = static_cast<std::size_t>(top_k);
  ENGINE_REQUIRE(top_k > 0 && y.size() == residual.size() * per_token && !weights.empty() &&
                     y.size() % weights.size() == 0,
                 "moe_combine: ", y.size(), " outputs, ", weights.size(), " weights");
  const std::size_t width = y.size() / weights.size();
  Values out(residual.begin(), residual.end());
  for (std::size_t i = 0; i < y.size(); ++i) {
    const std::size_t row = i / width;  // (t, s)
    out[row / per_token * width + i % width] += weights[row] * y[i];
  }
  return out;
}

}  // namespace engine::reference
