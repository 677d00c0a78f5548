#include "engine/model/config.h"

#include <algorithm>
#include <array>
#include <limits>

#include "engine/io/file.h"
#include "engine/io/json.h"
#include "engine/model/json_fields.h"
#include "engine/model/rope_config.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{16} << 20;

// Upper bounds: powers of two whose exponents add up to less than 63 in every product. Weights of
// all experts: layers x E x 3 x F x D x 4 bytes = 2^(10 + 10 + 2 + 20 + 18 + 2); the KV cache:
// layers x 2 x positions x G x Dh x 4 bytes = 2^(10 + 1 + 28 + 20 + 2).
constexpr std::int64_t kMaxHidden = std::int64_t{1} << 18;
constexpr std::int64_t kMaxIntermediate = std::int64_t{1} << 20;
constexpr std::int64_t kMaxLayers = std::int64_t{1} << 10;
constexpr std::int64_t kMaxHeads = std::int64_t{1} << 12;
constexpr std::int64_t kMaxHeadDim = std::int64_t{1} << 12;
constexpr std::int64_t kMaxAttention = std::int64_t{1} << 20;  // H x Dh
constexpr std::int64_t kMaxVocab = std::int64_t{1} << 24;
constexpr std::int64_t kMaxPositions = std::int64_t{1} << 28;
constexpr std::int64_t kMaxExperts = std::int64_t{1} << 10;
constexpr std::int64_t kMaxWindow = std::numeric_limits<std::int32_t>::max();
constexpr RealRange kEps = {1e-30, 1.0};

// What transformers takes for the absent fields of a model type (configuration_<type>.py); the
// fields not listed have one default for all.
struct Family {
  std::string_view model_type;
  std::string_view architecture;
  std::int64_t intermediate_size;
  std::optional<std::int64_t> kv_heads;  // nothing: as many as heads
  std::int64_t max_positions;
  double rms_norm_eps;
  double rope_theta;
  bool windowed;  // whether the graph uses sliding_window
  std::optional<std::int64_t> sliding_window;
  bool has_experts;
};

constexpr std::array<Family, 3> kFamilies = {{
    {"llama", "LlamaForCausalLM", 11008, std::nullopt, 2048, 1e-6, 1e4, false, std::nullopt, false},
    {"mistral", "MistralForCausalLM", 14336, 8, 131072, 1e-6, 1e4, true, 4096, false},
    {"mixtral", "MixtralForCausalLM", 14336, 8, 131072, 1e-5, 1e6, true, std::nullopt, true},
}};

// The names in `architectures`, which may be absent or null.
std::vector<std::string> architecture_names(const JsonFields& fields) {
  std::vector<std::string> names;
  const Json* list = fields.value("architectures");
  if (list == nullptr) {
    return names;
  }
  if (!list->is_array()) {
    fields.refuse("architectures", "an array of strings", list->describe());
  }
  for (const Json& name : list->array()) {
    if (!name.is_string()) {
      fields.refuse("architectures", "an array of strings", name.describe());
    }
    names.push_back(name.string());
  }
  return names;
}

const Family& find_family(const JsonFields& fields) {
  const std::vector<std::string> architectures = architecture_names(fields);
  const std::optional<std::string> model_type = fields.string("model_type");
  if (!model_type && architectures.empty()) {
    fields.refuse("model_type", "a string", "none, and no architectures");
  }
  const auto family =
      std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& candidate) {
        return model_type ? candidate.model_type == *model_type
                          : candidate.architecture == architectures.front();
      });
  ENGINE_CHECK(family != kFamilies.end(), ErrorKind::kUnsupported, fields.where(),
               model_type ? ": model_type " : ": architecture ",
               quote(model_type ? *model_type : architectures.front()),
               " is not supported (llama, mistral and mixtral are)");
  for (const std::string& name : architectures) {
    ENGINE_CHECK(name == family->architecture, ErrorKind::kUnsupported, fields.where(),
                 ": architecture ", quote(name), " is not supported for model_type ",
                 quote(family->model_type), " (", family->architecture, " is)");
  }
  return *family;
}

// Features that change the computation and that no graph here has.
void refuse_unsupported(const JsonFields& fields) {
  const std::string activation = fields.string("hidden_act").value_or("silu");
  ENGINE_CHECK(activation == "silu", ErrorKind::kUnsupported, fields.where(), ": hidden_act ",
               quote(activation), " is not supported (silu is)");
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    ENGINE_CHECK(!fields.boolean(key).value_or(false), ErrorKind::kUnsupported, fields.where(),
                 ": ", key, " true is not supported");
  }
  ENGINE_CHECK(fields.value("quantization_config") == nullptr, ErrorKind::kUnsupported,
               fields.where(), ": quantization_config: quantised checkpoints are not supported");
}

void parse_sizes(const JsonFields& fields, const Family& family, ModelConfig& config) {
  config.vocab = fields.integer("vocab_size", 1, kMaxVocab).value_or(32000);
  config.hidden = fields.integer("hidden_size", 1, kMaxHidden).value_or(4096);
  config.intermediate =
      fields.integer("intermediate_size", 1, kMaxIntermediate).value_or(family.intermediate_size);
  config.layers = fields.integer("num_hidden_layers", 1, kMaxLayers).value_or(32);
  config.max_positions =
      fields.integer("max_position_embeddings", 1, kMaxPositions).value_or(family.max_positions);
  config.rms_eps =
      static_cast<float>(fields.real("rms_norm_eps", kEps).value_or(family.rms_norm_eps));
}

void parse_attention(const JsonFields& fields, const Family& family, ModelConfig& config) {
  config.heads = fields.integer("num_attention_heads", 1, kMaxHeads).value_or(32);
  const bool has_kv_heads = fields.find("num_key_value_heads") != nullptr;
  config.kv_heads =
      fields.nullable_integer("num_key_value_heads", 1, kMaxHeads)
          .value_or(has_kv_heads ? config.heads : family.kv_heads.value_or(config.heads));
  if (config.heads % config.kv_heads != 0) {
    fields.refuse("num_key_value_heads", concat("a divisor of num_attention_heads ", config.heads),
                  concat(config.kv_heads));
  }
  const std::optional<std::int64_t> head_dim = fields.nullable_integer("head_dim", 1, kMaxHeadDim);
  if (!head_dim && config.hidden % config.heads != 0) {
    fields.refuse(
        "hidden_size",
        concat("a multiple of num_attention_heads ", config.heads, ", as there is no head_dim"),
        concat(config.hidden));
  }
  config.head_dim = head_dim.value_or(config.hidden / config.heads);
  if (config.head_dim % 2 != 0) {
    fields.refuse("head_dim", "an even number, as RoPE turns pairs", concat(config.head_dim));
  }
  if (config.heads * config.head_dim > kMaxAttention) {
    fields.refuse("num_attention_heads", concat("at most ", kMaxAttention, " heads x head_dim"),
                  concat(config.heads * config.head_dim));
  }
  const bool has_window = fields.find("sliding_window") != nullptr;
  const std::optional<std::int64_t> window =
      fields.nullable_integer("sliding_window", 1, kMaxWindow);
  if (family.windowed) {  // transformers' llama does not look at the field
    config.sliding_window = has_window ? window : family.sliding_window;
  }
}

void parse_experts(const JsonFields& fields, ModelConfig& config) {
  const std::optional<std::int64_t> experts = fields.integer("num_local_experts", 1, kMaxExperts);
  const std::optional<std::int64_t> alias = fields.integer("num_experts", 1, kMaxExperts);
  if (experts && alias && *experts != *alias) {
    fields.refuse("num_experts", concat(*experts, ", as num_local_experts"), concat(*alias));
  }
  config.experts = experts ? *experts : alias.value_or(8);
  config.experts_per_token = fields.integer("num_experts_per_tok", 1, kMaxExperts).value_or(2);
  if (config.experts_per_token > config.experts) {
    fields.refuse("num_experts_per_tok", concat("at most num_local_experts ", config.experts),
                  concat(config.experts_per_token));
  }
}

// The default ids (1 and 2) stand for absent fields, where the vocabulary has them.
void parse_special_ids(const JsonFields& fields, ModelConfig& config) {
  const std::int64_t last = config.vocab - 1;
  config.bos_id = fields.nullable_integer("bos_token_id", 0, last);
  if (fields.find("bos_token_id") == nullptr && last >= 1) {
    config.bos_id = 1;
  }
  config.eos_ids = fields.integers("eos_token_id", 0, last);
  if (fields.find("eos_token_id") == nullptr && last >= 2) {
    config.eos_ids = {2};
  }
}

// "dtype", or the older "torch_dtype": "bfloat16", or "torch.bfloat16".
std::optional<DType> parse_dtype(const JsonFields& fields) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (fields.value(key) == nullptr) {
      continue;
    }
    const std::string text = *fields.string(key);
    std::string_view name = text;
    if (name.starts_with("torch.")) {
      name.remove_prefix(6);
    }
    if (name == "float32") {
      return DType::kF32;
    }
    if (name == "float16") {
      return DType::kF16;
    }
    if (name == "bfloat16") {
      return DType::kBF16;
    }
  }
  return std::nullopt;
}

}  // namespace

ModelConfig parse_config(std::string_view text, const std::string& file) {
  const Json json = parse_json(text, file);
  const JsonFields fields(json, file);
  const Family& family = find_family(fields);
  refuse_unsupported(fields);
  ModelConfig config;
  config.model_type = family.model_type;
  parse_sizes(fields, family, config);
  parse_attention(fields, family, config);
  config.rope = parse_rope_config(fields, family.rope_theta, config.max_positions);
  if (family.has_experts) {
    parse_experts(fields, config);
  }
  config.tie_word_embeddings = fields.boolean("tie_word_embeddings").value_or(false);
  parse_special_ids(fields, config);
  config.stored_dtype = parse_dtype(fields);
  return config;
}

ModelConfig load_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  return parse_config(read_text_file(path, kMaxConfigBytes), path.string());
}

}  // namespace engine
