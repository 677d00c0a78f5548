#include "engine/model/decoder.h"

#include <cmath>
#include <string>
#include <utility>

#include "engine/io/weight_binder.h"
#include "kernels/core/check.h"

namespace engine {

Decoder::Decoder(ModelConfig config)
    : config_(std::move(config)), attention_(static_cast<std::size_t>(config_.layers)) {}

void Decoder::bind(WeightBinder& binder) {
  const std::int64_t width = config_.hidden, head_size = config_.head_dim;
  const std::int64_t q = config_.heads * head_size, kv = config_.kv_heads * head_size;
  const WeightBinder::Part table = {"model.embed_tokens.weight", config_.vocab};
  binder.matrix(&embedding_, {table}, width);
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    AttentionWeights& w = attention_[static_cast<std::size_t>(i)];
    binder.vector(&w.norm, layer + "input_layernorm.weight", width);
    binder.linear(&w.qkv,
                  {{layer + "self_attn.q_proj.weight", q},
                   {layer + "self_attn.k_proj.weight", kv},
                   {layer + "self_attn.v_proj.weight", kv}},
                  width);
    binder.linear(&w.output, {{layer + "self_attn.o_proj.weight", width}}, q);
    bind_feed_forward(binder, i);
    binder.ignore(layer + "self_attn.rotary_emb.inv_freq");
  }
  binder.vector(&final_norm_, "model.norm.weight", width);
  if (config_.tie_word_embeddings) {
    binder.tied_linear(&head_, &embedding_, table, width);
    binder.ignore("lm_head.weight");
  } else {
    binder.linear(&head_, {{"lm_head.weight", config_.vocab}}, width);
  }
}

void Decoder::forward(Ops& ops, const StepInput& step, std::span<const LayerCache> caches,
                      const Tensor& hidden, Workspace scratch) const {
  ENGINE_REQUIRE(caches.size() == attention_.size(), "forward: ", caches.size(), " caches for ",
                 attention_.size(), " layers");
  ops.embed({.out = hidden, .table = embedding_, .ids = step.ids});
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    decoder_layer(ops, layer, step, caches[static_cast<std::size_t>(layer)], hidden, scratch);
  }
}

// One field to a line would hide the paper's block behind its operands.
// clang-format off
void Decoder::decoder_layer(Ops& ops, std::int64_t layer, const StepInput& step,
                            const LayerCache& cache, const Tensor& x, Workspace scratch) const {
  const AttentionWeights& w = attention_[static_cast<std::size_t>(layer)];
  const std::int64_t tokens = x.size(0), heads = config_.heads, head_size = config_.head_dim;
  const Tensor q = scratch.take(x.dtype, {tokens, heads, head_size});
  const Tensor attended = scratch.take(x.dtype, {tokens, heads, head_size});

  ops.attention_in({.q = q, .x = x, .norm = w.norm, .eps = config_.rms_eps, .qkv = w.qkv,
                    .rope_table = step.rope_table, .position = step.position,
                    .k_cache = cache.k, .v_cache = cache.v}, scratch);
  ops.attention({.out = attended, .q = q, .k_cache = cache.k, .v_cache = cache.v,
                 .position = step.position, .bound = step.bound,
                 .scale = 1.0f / std::sqrt(static_cast<float>(head_size)), .causal = true,
                 .window = config_.sliding_window.value_or(0), .lse = {}}, scratch);
  ops.attention_out({.x = x, .attention = attended.reshape({tokens, heads * head_size}),
                     .output = w.output}, scratch);
  feed_forward(ops, layer, x, scratch);
}
// clang-format on

void Decoder::logits(Ops& ops, const Tensor& hidden, const Tensor& out, Workspace scratch) const {
  const Tensor normed = scratch.take(hidden.dtype, hidden.shape);
  ops.rmsnorm({.out = normed, .x = hidden, .weight = final_norm_, .eps = config_.rms_eps});
  ops.linear({.out = out, .x = normed, .weight = head_, .residual = {}}, scratch);
}

std::size_t Decoder::bytes_per_token() const {
  std::size_t bytes = head_.bytes() + final_norm_.bytes() + feed_forward_bytes();
  for (const AttentionWeights& w : attention_) {
    bytes += w.norm.bytes() + w.qkv.bytes() + w.output.bytes();
  }
  return bytes;
}

}  // namespace engine
