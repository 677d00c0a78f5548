#include <cmath>

#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

Values layernorm(View x, View weight, View bias, double eps) {
  const std::size_t width = weight.size();
  ENGINE_REQUIRE(width > 0 && x.size() % width == 0 && bias.size() == width, "layernorm: ",
                 x.size(), " values over ", width);
  Values out(x.size());
  for (std::size_t row = 0; row < x.size(); row += width) {
    double mean = 0.0, variance = 0.0;
    for (std::size_t i = 0; i < width; ++i) mean += x[row + i];
    mean /= static_cast<double>(width);
    for (std::size_t i = 0; i < width; ++i) {
      variance += (x[row + i] - mean) * (x[row + i] - mean);
    }
    const double root = std::sqrt(variance / static_cast<double>(width) + eps);
    for (std::size_t i = 0; i < width; ++i) {
      out[row + i] = (x[row + i] - mean) / root * weight[i] + bias[i];
    }
  }
  return out;
}

}  // namespace engine::reference
