#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {

Route moe_route(View logits, std::int64_t experts, std::int64_t top_k) {
  const auto count = static_cast<std::size_t>(experts), chosen = static_cast<std::size_t>(top_k);
  ENGINE_REQUIRE(experts > 0 && logits.size() % count == 0 && top_k > 0 && top_k <= experts,
                 "moe_route: ", top_k, " of ", experts, " experts, ", logits.size(), " logits");
  Route route;
  for (std::size_t row = 0; row < logits.size(); row += count) {
    const View token = logits.subspan(row, count);
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), std::size_t{0});
    // The softmax keeps the order of its logits, and a stable sort that of equal ones.
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return token[a] > token[b]; });
    double total = 0.0;
    for (std::size_t s = 0; s < chosen; ++s) total += std::exp(token[order[s]] - token[order[0]]);
    for (std::size_t s = 0; s < chosen; ++s) {
      route.experts.push_back(static_cast<std::int32_t>(order[s]));
      route.weights.push_back(std::exp(token[order[s]] - token[order[0]]) / total);
    }
    route.margin.push_back(chosen == count ? std::numeric_limits<double>::infinity()
                                           : token[order[chosen - 1]] - token[order[chosen]]);
  }
  return route;
}

}  // namespace engine::reference
