#include <cmath>

#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

Values silu_mul(View gate, View up) {
  ENGINE_REQUIRE(gate.size() == up.size(), "silu_mul: ", gate.size(), " and ", up.size());
  Values out(gate.size());
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i];
  return out;
}

}  // namespace engine::reference
