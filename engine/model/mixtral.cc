#include "engine/model/mixtral.h"

#include <string>
#include <utility>

#include "engine/io/weight_binder.h"

namespace engine {

Mixtral::Mixtral(ModelConfig config)
    : Decoder(std::move(config)), feed_forward_(static_cast<std::size_t>(this->config().layers)) {}

// Checkpoints come in two layouts with the same numbers: one tensor for each matrix of each expert,
// or all experts stacked in one tensor.
void Mixtral::bind_feed_forward(WeightBinder& binder, std::int64_t layer) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const std::int64_t width = config().hidden, inner = config().intermediate;
  const std::int64_t experts = config().experts;
  FeedForwardWeights& w = feed_forward_[static_cast<std::size_t>(layer)];
  binder.vector(&w.norm, prefix + "post_attention_layernorm.weight", width);
  const std::string stacked = prefix + "mlp.experts.";
  if (binder.has(stacked + "gate_up_proj") || binder.has(stacked + "down_proj")) {
    binder.matrix(&w.router, {{prefix + "mlp.gate.weight", experts}}, width);
    binder.linear(&w.gate_up, {{stacked + "gate_up_proj", 2 * inner, experts}}, width);
    binder.linear(&w.down, {{stacked + "down_proj", width, experts}}, inner);
    return;
  }
  const std::string mixture = prefix + "block_sparse_moe.";
  std::vector<WeightBinder::Part> gate_up, down;
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::string expert = mixture + "experts." + std::to_string(e) + ".";
    gate_up.push_back({expert + "w1.weight", inner});
    gate_up.push_back({expert + "w3.weight", inner});
    down.push_back({expert + "w2.weight", width});
  }
  binder.matrix(&w.router, {{mixture + "gate.weight", experts}}, width);
  binder.linear(&w.gate_up, std::move(gate_up), width);
  binder.linear(&w.down, std::move(down), inner);
}

void Mixtral::feed_forward(Ops& ops, std::int64_t layer, const Tensor& x, Workspace scratch) const {
  const FeedForwardWeights& w = feed_forward_[static_cast<std::size_t>(layer)];
  ops.moe_feed_forward({.x = x,
                        .norm = w.norm,
                        .eps = config().rms_eps,
                        .router = w.router,
                        .gate_up = w.gate_up,
                        .down = w.down,
                        .experts = config().experts,
                        .top_k = config().experts_per_token},
                       scratch);
}

std::size_t Mixtral::feed_forward_bytes() const {
  const auto all = static_cast<std::size_t>(config().experts);
  const auto used = static_cast<std::size_t>(config().experts_per_token);
  std::size_t bytes = 0;
  for (const FeedForwardWeights& w : feed_forward_) {
    const std::size_t expert = (w.gate_up.bytes() + w.down.bytes()) / all;
    bytes += w.norm.bytes() + w.router.bytes() + used * expert;
  }
  return bytes;
}

}  // namespace engine
