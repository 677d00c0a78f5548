#include "bench/step_traffic.h"

#include <algorithm>
#include <numeric>
#include <variant>

#include "kernels/recorder.h"

namespace engine::bench {
namespace {

double size(std::size_t bytes) { return static_cast<double>(bytes); }

double product_flops(std::int64_t tokens, const Weight& weight) {
  return 2.0 * static_cast<double>(tokens) * static_cast<double>(weight.rows) *
         static_cast<double>(weight.columns);
}

// One overload a call: the bytes that it reads, as ops.h defines the call.
struct Counter {
  std::int64_t position;  // tokens before the step

  StageTraffic operator()(const EmbedCall& c) const {
    const double row = size(c.table.bytes()) / static_cast<double>(c.table.rows);
    return {.stage = "embed",
            .weight_bytes = row * static_cast<double>(c.ids.size(0)),
            .embedding = true};
  }
  StageTraffic operator()(const RmsNormCall& c) const {
    return {.stage = "rmsnorm", .weight_bytes = size(c.weight.bytes())};
  }
  StageTraffic operator()(const LinearCall& c) const {
    return {.stage = "linear",
            .weight_bytes = size(c.weight.bytes()),
            .flops = product_flops(c.out.size(0), c.weight)};
  }
  StageTraffic operator()(const AttentionInCall& c) const {
    return {.stage = "attention_in",
            .weight_bytes = size(c.norm.bytes()) + size(c.qkv.bytes()),
            .flops = product_flops(c.x.size(0), c.qkv)};
  }
  StageTraffic operator()(const AttentionCall& c) const {
    const std::int64_t tokens = c.q.size(0), heads = c.q.size(1), head_size = c.q.size(2);
    const std::int64_t kv_heads = c.k_cache.size(0);
    const std::int64_t window = c.window > 0 ? c.window : position + tokens;
    std::int64_t pairs = 0;  // of a query and a key it sees
    for (std::int64_t t = 0; t < tokens; ++t) pairs += std::min(position + t + 1, window);
    const std::int64_t keys = std::min(position + tokens, window + tokens - 1);
    return {.stage = "attention",
            .cache_bytes = 2.0 * static_cast<double>(kv_heads * keys * head_size) *
                           size(dtype_size(c.k_cache.dtype)),
            .flops = 4.0 * static_cast<double>(pairs) * static_cast<double>(heads * head_size)};
  }
  StageTraffic operator()(const AttentionOutCall& c) const {
    return {.stage = "attention_out",
            .weight_bytes = size(c.output.bytes()),
            .flops = product_flops(c.x.size(0), c.output)};
  }
  StageTraffic operator()(const FeedForwardCall& c) const {
    const std::int64_t tokens = c.x.size(0);
    return {.stage = "feed_forward",
            .weight_bytes = size(c.norm.bytes()) + size(c.gate_up.bytes()) + size(c.down.bytes()),
            .flops = product_flops(tokens, c.gate_up) + product_flops(tokens, c.down)};
  }
  StageTraffic operator()(const MoeFeedForwardCall& c) const {
    const std::int64_t tokens = c.x.size(0);
    const auto experts = static_cast<double>(c.experts);
    const double chosen = static_cast<double>(c.top_k) / experts;
    const double read = std::min(1.0, chosen * static_cast<double>(tokens));
    return {.stage = "moe_feed_forward",
            .weight_bytes = size(c.norm.bytes()) + size(c.router.bytes()) +
                            read * (size(c.gate_up.bytes()) + size(c.down.bytes())),
            .flops = product_flops(tokens, c.router) +
                     chosen * (product_flops(tokens, c.gate_up) + product_flops(tokens, c.down))};
  }
  // A decoder's step asks for nothing else.
  template <typename Other>
  StageTraffic operator()(const Other&) const {
    fail(ErrorKind::kInternal, "step_traffic: a call that nobody counts");
  }
};

// The step of engine/runtime/session.cc up to its logits, on tensors without memory.
std::vector<RecordedCall> record_step(Backend& backend, const Decoder& model, DType dtype,
                                      std::int64_t tokens, std::int64_t position) {
  const ModelConfig& config = model.config();
  const std::int64_t length = position + tokens;
  std::size_t unused = 0;
  Workspace arena = Workspace::dry_run(backend.device(), &unused);
  const StepInput input = {.ids = arena.take(DType::kI32, {tokens}),
                           .position = arena.take(DType::kI32, {1}),
                           .rope_table = arena.take(DType::kF32, {length, config.head_dim}),
                           .bound = length};
  const Shape shape = {config.kv_heads, length, config.head_dim};
  const LayerCache cache = {.k = arena.take(dtype, shape), .v = arena.take(dtype, shape)};
  const std::vector<LayerCache> caches(static_cast<std::size_t>(config.layers), cache);
  const Tensor hidden = arena.take(dtype, {tokens, config.hidden});
  const Tensor logits = arena.take(DType::kF32, {1, config.vocab});
  Recorder recorder(backend.ops());
  model.forward(recorder, input, caches, hidden, arena);
  model.logits(recorder, hidden.slice(0, tokens - 1, 1), logits, arena);
  return recorder.take();
}

template <typename Field>
double sum(const std::vector<StageTraffic>& stages, Field field) {
  return std::accumulate(stages.begin(), stages.end(), 0.0,
                         [&](double total, const StageTraffic& s) { return total + field(s); });
}

}  // namespace

double StepTraffic::model_bytes() const {
  return sum(stages, [](const StageTraffic& s) { return s.embedding ? 0 : s.weight_bytes; });
}

double StepTraffic::cache_bytes() const {
  return sum(stages, [](const StageTraffic& s) { return s.cache_bytes; });
}

double StepTraffic::flops() const {
  return sum(stages, [](const StageTraffic& s) { return s.flops; });
}

StepTraffic step_traffic(Backend& backend, const Decoder& model, DType dtype, std::int64_t tokens,
                         std::int64_t position) {
  StepTraffic traffic;
  for (const RecordedCall& recorded : record_step(backend, model, dtype, tokens, position)) {
    const StageTraffic one = std::visit(Counter{position}, recorded.call);
    auto stage = std::find_if(traffic.stages.begin(), traffic.stages.end(),
                              [&](const StageTraffic& s) { return s.stage == one.stage; });
    if (stage == traffic.stages.end()) {
      traffic.stages.push_back(one);
      continue;
    }
    stage->weight_bytes += one.weight_bytes;
    stage->cache_bytes += one.cache_bytes;
    stage->flops += one.flops;
  }
  return traffic;
}

}  // namespace engine::bench
