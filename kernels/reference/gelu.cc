#include <cmath>
#include <numbers>

#include "kernels/reference/reference.h"

namespace engine::reference {

Values gelu(View x) {
  Values out;
  for (const double v : x) {
    const double z = std::sqrt(2.0 / std::numbers::pi) * (v + 0.044715 * v * v * v);
    out.push_back(0.5 * v * (1.0 + std::tanh(z)));
  }
  return out;
}

}  // namespace engine::reference
