#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

Values linear(View x, View weight, View residual, std::int64_t inputs) {
  const auto columns = static_cast<std::size_t>(inputs);
  ENGINE_REQUIRE(inputs > 0 && x.size() % columns == 0 && weight.size() % columns == 0,
                 "linear: ", x.size(), " and ", weight.size(), " values over ", inputs);
  const std::size_t tokens = x.size() / columns, outputs = weight.size() / columns;
  ENGINE_REQUIRE(residual.empty() || residual.size() == tokens * outputs, "linear: residual of ",
                 residual.size());
  Values out(tokens * outputs);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t n = 0; n < outputs; ++n) {
      double sum = residual.empty() ? 0.0 : residual[t * outputs + n];
      for (std::size_t k = 0; k < columns; ++k) sum += x[t * columns + k] * weight[n * columns + k];
      out[t * outputs + n] = sum;
    }
  }
  return out;
}

}  // namespace engine::reference
