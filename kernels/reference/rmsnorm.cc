#include <cmath>

#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

Values rmsnorm(View x, View weight, double eps, const DType* dtype) {
  const std::size_t width = weight.size();
  ENGINE_REQUIRE(width > 0 && x.size() % width == 0, "rmsnorm: ", x.size(), " values over ", width);
  Values out(x.size());
  for (std::size_t row = 0; row < x.size(); row += width) {
    double squares = 0.0;
    for (std::size_t i = 0; i < width; ++i) squares += x[row + i] * x[row + i];
    const double root = std::sqrt(squares / static_cast<double>(width) + eps);
    for (std::size_t i = 0; i < width; ++i) {
      const double normed = x[row + i] / root;
      out[row + i] = (dtype != nullptr ? round_to(*dtype, normed) : normed) * weight[i];
    }
  }
  return out;
}

}  // namespace engine::reference
