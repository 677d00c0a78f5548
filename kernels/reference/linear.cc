#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

double dot(View a, View b) {
  constexpr std::size_t kSums = 8;
  double sums[kSums] = {};
  std::size_t k = 0;
  for (; k + kSums <= a.size(); k += kSums) {
    for (std::size_t i = 0; i < kSums; ++i) sums[i] += a[k + i] * b[k + i];
  }
  double sum = 0.0;
  for (const double part : sums) sum += part;
  for (; k < a.size(); ++k) sum += a[k] * b[k];
  return sum;
}

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
      const double sum = dot(x.subspan(t * columns, columns), weight.subspan(n * columns, columns));
      out[t * outputs + n] = residual.empty() ? sum : residual[t * outputs + n] + sum;
    }
  }
  return out;
}

}  // namespace engine::reference
