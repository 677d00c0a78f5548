#include "bench/models.h"

#include <array>

namespace engine::bench {
namespace {

constexpr std::int64_t kPositions = 8192;

ModelConfig llama2_7b() {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden = 4096;
  config.intermediate = 11008;
  config.layers = 32;
  config.heads = 32;
  config.kv_heads = 32;
  config.head_dim = 128;
  config.vocab = 32000;
  config.max_positions = kPositions;
  config.rms_eps = 1e-5f;
  config.rope.theta = 1e4;
  return config;
}

// Half of the true model's 32 layers, as in the source.
ModelConfig mixtral_8x7b() {
  ModelConfig config = llama2_7b();
  config.model_type = "mixtral";
  config.intermediate = 14336;
  config.layers = 16;
  config.kv_heads = 8;
  config.rope.theta = 1e6;
  config.experts = 8;
  config.experts_per_token = 2;
  return config;
}

ModelConfig llama_1b() {
  ModelConfig config = llama2_7b();
  config.hidden = 2048;
  config.intermediate = 5632;
  config.layers = 22;
  config.kv_heads = 4;
  config.head_dim = 64;
  return config;
}

constexpr std::array<ModelSpec, 3> kSpecs = {{
    {.name = "llama2-7b",
     .label = "Llama-2-7b-chat-hf",
     .summary = "decoding with LLaMA 2 7B, 32 layers",
     .config = llama2_7b,
     .bf16 = {94, 1253, 162},
     .int8 = {144, 957, 172}},
    {.name = "mixtral-8x7b",
     .label = "Mixtral-8x7B-v0.1",
     .summary = "decoding with Mixtral 8x7B, 16 layers (--layers 32: the true model)",
     .config = mixtral_8x7b,
     .bf16 = {},
     .int8 = {175, 1130, 162}},
    {.name = "llama-1b",
     .label = "Llama-1.1b",
     .summary = "decoding with a LLaMA of 1.1 B parameters, 22 layers",
     .config = llama_1b,
     .bf16 = {},
     .int8 = {}},
}};

}  // namespace

std::span<const ModelSpec> model_specs() { return kSpecs; }

}  // namespace engine::bench
