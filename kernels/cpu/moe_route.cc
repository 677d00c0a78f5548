// The choice of experts: softmax over all of them, the most probable kept, renormalised.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/launchers.h"

namespace engine::cpu {
namespace {

constexpr float kTaken = -1.0f;  // marks a probability that was chosen

// Overwrites the logits with their softmax. A NaN, and a +∞, makes every result NaN.
void softmax(float* row, std::int64_t count) {
  float greatest = row[0], total = 0.0f;
  for (std::int64_t e = 1; e < count; ++e) greatest = std::max(greatest, row[e]);
  for (std::int64_t e = 0; e < count; ++e) total += row[e] = std::exp(row[e] - greatest);
  for (std::int64_t e = 0; e < count; ++e) row[e] /= total;
}

// The greatest probability not yet taken, the lowest index where several are equal; of NaNs the
// first. One at least is left.
std::int64_t greatest_left(const float* row, std::int64_t count) {
  std::int64_t best = 0;
  while (row[best] == kTaken) ++best;
  for (std::int64_t e = best + 1; e < count; ++e) {
    if (row[e] > row[best]) best = e;
  }
  return best;
}

}  // namespace

void moe_route(const Context& context, const MoeRouteCall& call) {
  const std::int64_t experts = call.logits.size(1), top_k = call.experts.size(1);
  ENGINE_REQUIRE(static_cast<std::size_t>(experts) <= Context::kScratchBytes / sizeof(float),
                 "moe_route: ", experts, " experts do not fit the scratch of a thread");
  parallel_for(context, call.logits.size(0), experts * (top_k + 20),
               [&](std::int64_t t, int worker) {
                 float* left = context.thread_scratch(worker);
                 std::copy_n(reinterpret_cast<const float*>(row_of(call.logits, t)), experts, left);
                 softmax(left, experts);
                 auto* chosen = reinterpret_cast<std::int32_t*>(row_of(call.experts, t));
                 auto* weights = reinterpret_cast<float*>(row_of(call.weights, t));
                 float total = 0.0f;
                 for (std::int64_t s = 0; s < top_k; ++s) {
                   const std::int64_t best = greatest_left(left, experts);
                   chosen[s] = static_cast<std::int32_t>(best);
                   total += weights[s] = left[best];
                   left[best] = kTaken;
                 }
                 for (std::int64_t s = 0; s < top_k; ++s) weights[s] /= total;
               });
}

}  // namespace engine::cpu
