#include "engine/model/llama.h"

#include <string>
#include <utility>

#include "engine/io/weight_binder.h"

namespace engine {

Llama::Llama(ModelConfig config)
    : Decoder(std::move(config)), feed_forward_(static_cast<std::size_t>(this->config().layers)) {}

void Llama::bind_feed_forward(WeightBinder& binder, std::int64_t layer) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const std::int64_t width = config().hidden, inner = config().intermediate;
  FeedForwardWeights& w = feed_forward_[static_cast<std::size_t>(layer)];
  binder.vector(&w.norm, prefix + "post_attention_layernorm.weight", width);
  binder.linear(&w.gate_up,
                {{prefix + "mlp.gate_proj.weight", inner}, {prefix + "mlp.up_proj.weight", inner}},
                width);
  binder.linear(&w.down, {{prefix + "mlp.down_proj.weight", width}}, inner);
}

void Llama::feed_forward(Ops& ops, std::int64_t layer, const Tensor& x, Workspace scratch) const {
  const FeedForwardWeights& w = feed_forward_[static_cast<std::size_t>(layer)];
  ops.feed_forward(
      {.x = x, .norm = w.norm, .eps = config().rms_eps, .gate_up = w.gate_up, .down = w.down},
      scratch);
}

std::size_t Llama::feed_forward_bytes() const {
  std::size_t bytes = 0;
  for (const FeedForwardWeights& w : feed_forward_) {
    bytes += w.norm.bytes() + w.gate_up.bytes() + w.down.bytes();
  }
  return bytes;
}

}  // namespace engine
