#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

Values add(View a, View b) {
  ENGINE_REQUIRE(a.size() == b.size(), "add: ", a.size(), " and ", b.size());
  Values out(a.size());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = a[i] + b[i];
  return out;
}

}  // namespace engine::reference
