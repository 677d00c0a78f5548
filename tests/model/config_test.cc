// config.json: defaults, both RoPE schemas, and a table of what each wrong value comes to.
#include "engine/model/config.h"

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

#include "tests/support/outcome.h"
#include "tests/support/paths.h"
#include "tests/support/temp_dir.h"

namespace engine {
namespace {

using test::Outcome;
using test::outcome_of;

// A config as JSON texts by field, so that a test can replace one.
using Fields = std::map<std::string, std::string>;

const Fields kLlama = {{"architectures", "[\"LlamaForCausalLM\"]"},
                       {"model_type", "\"llama\""},
                       {"hidden_size", "64"},
                       {"intermediate_size", "172"},
                       {"num_hidden_layers", "5"},
                       {"num_attention_heads", "8"},
                       {"num_key_value_heads", "4"},
                       {"head_dim", "8"},
                       {"vocab_size", "512"},
                       {"max_position_embeddings", "256"},
                       {"rms_norm_eps", "1e-05"},
                       {"rope_theta", "10000.0"},
                       {"hidden_act", "\"silu\""},
                       {"tie_word_embeddings", "true"},
                       {"bos_token_id", "1"},
                       {"eos_token_id", "2"},
                       {"torch_dtype", "\"bfloat16\""},
                       {"attention_bias", "false"},
                       {"mlp_bias", "false"}};

Fields mixtral_fields() {
  Fields fields = kLlama;
  fields["architectures"] = "[\"MixtralForCausalLM\"]";
  fields["model_type"] = "\"mixtral\"";
  fields["num_local_experts"] = "8";
  fields["num_experts_per_tok"] = "2";
  fields["sliding_window"] = "null";
  return fields;
}

Fields with(Fields fields, const Fields& changes) {
  for (const auto& [key, value] : changes) {
    if (value.empty()) {
      fields.erase(key);
    } else {
      fields[key] = value;
    }
  }
  return fields;
}

std::string text_of(const Fields& fields) {
  std::string text = "{";
  for (const auto& [key, value] : fields) {
    text += concat(text.size() > 1 ? "," : "", '"', key, "\":", value);
  }
  return text + "}";
}

ModelConfig parse(const Fields& fields) { return parse_config(text_of(fields), "config.json"); }
Outcome parse_outcome(const Fields& fields) {
  return outcome_of([&] { parse(fields); });
}

TEST_CASE("config: every field arrives") {
  const ModelConfig config = parse(with(kLlama, {{"head_dim", "20"}, {"eos_token_id", "[2,5]"}}));
  CHECK(config.model_type == "llama");
  CHECK(config.hidden == 64);
  CHECK(config.intermediate == 172);
  CHECK(config.layers == 5);
  CHECK(config.heads == 8);
  CHECK(config.kv_heads == 4);
  CHECK(config.head_dim == 20);
  CHECK(config.vocab == 512);
  CHECK(config.max_positions == 256);
  CHECK(config.rms_eps == 1e-5f);
  CHECK(config.rope == RopeConfig{});
  CHECK(config.tie_word_embeddings);
  CHECK(config.bos_id == 1);
  CHECK(config.eos_ids == std::vector<std::int64_t>{2, 5});
  CHECK(config.stored_dtype == DType::kBF16);
  CHECK(config.experts == 0);
  const ModelConfig mixtral = parse(mixtral_fields());
  CHECK(mixtral.model_type == "mixtral");
  CHECK(mixtral.experts == 8);
  CHECK(mixtral.experts_per_token == 2);
}

TEST_CASE("config: absent fields get transformers' defaults for the model type") {
  const ModelConfig llama = parse({{"model_type", "\"llama\""}});
  CHECK(llama.hidden == 4096);
  CHECK(llama.intermediate == 11008);
  CHECK(llama.layers == 32);
  CHECK(llama.heads == 32);
  CHECK(llama.kv_heads == 32);
  CHECK(llama.head_dim == 128);
  CHECK(llama.vocab == 32000);
  CHECK(llama.max_positions == 2048);
  CHECK(llama.rms_eps == 1e-6f);
  CHECK(llama.rope == RopeConfig{});
  CHECK_FALSE(llama.sliding_window.has_value());
  CHECK_FALSE(llama.tie_word_embeddings);
  CHECK(llama.bos_id == 1);
  CHECK(llama.eos_ids == std::vector<std::int64_t>{2});
  CHECK_FALSE(llama.stored_dtype.has_value());

  const ModelConfig mistral = parse({{"model_type", "\"mistral\""}});
  CHECK(mistral.intermediate == 14336);
  CHECK(mistral.kv_heads == 8);
  CHECK(mistral.max_positions == 131072);
  CHECK(mistral.rms_eps == 1e-6f);
  CHECK(mistral.rope.theta == 10000.0);
  CHECK(mistral.sliding_window == 4096);

  const ModelConfig mixtral = parse({{"model_type", "\"mixtral\""}});
  CHECK(mixtral.intermediate == 14336);
  CHECK(mixtral.kv_heads == 8);
  CHECK(mixtral.rms_eps == 1e-5f);
  CHECK(mixtral.rope.theta == 1e6);
  CHECK_FALSE(mixtral.sliding_window.has_value());
  CHECK(mixtral.experts == 8);
  CHECK(mixtral.experts_per_token == 2);
}

TEST_CASE("config: fields that may be null") {
  const Fields null_fields = with(kLlama, {{"num_key_value_heads", "null"},
                                           {"head_dim", "null"},
                                           {"bos_token_id", "null"},
                                           {"eos_token_id", "null"},
                                           {"torch_dtype", "null"},
                                           {"rope_scaling", "null"},
                                           {"rope_parameters", "null"},
                                           {"architectures", "null"}});
  const ModelConfig config = parse(null_fields);
  CHECK(config.kv_heads == 8);
  CHECK(config.head_dim == 8);
  CHECK_FALSE(config.bos_id.has_value());
  CHECK(config.eos_ids.empty());
  CHECK_FALSE(config.stored_dtype.has_value());
  const Fields mistral = {{"model_type", "\"mistral\""}, {"sliding_window", "null"}};
  CHECK_FALSE(parse(mistral).sliding_window.has_value());
  CHECK(parse(with(mistral, {{"num_key_value_heads", "null"}})).kv_heads == 32);
  CHECK(parse(with(mistral, {{"sliding_window", "17"}})).sliding_window == 17);
  // transformers' llama has no window, whatever its config says.
  CHECK_FALSE(parse(with(kLlama, {{"sliding_window", "17"}})).sliding_window.has_value());
}

TEST_CASE("config: architecture and model type") {
  CHECK(parse(with(kLlama, {{"model_type", ""}})).model_type == "llama");
  CHECK(parse({{"architectures", "[\"MistralForCausalLM\"]"}}).model_type == "mistral");
  struct Case {
    Fields changes;
    ErrorKind kind;
    const char* named;
  };
  const Case cases[] = {
      {{{"model_type", "\"qwen2\""}}, ErrorKind::kUnsupported, "\"qwen2\""},
      {{{"model_type", "\"Llama\""}}, ErrorKind::kUnsupported, "\"Llama\""},
      {{{"model_type", "\"\""}}, ErrorKind::kUnsupported, "model_type \"\""},
      {{{"architectures", "[\"LlamaForSequenceClassification\"]"}},
       ErrorKind::kUnsupported,
       "LlamaForSequenceClassification"},
      {{{"architectures", "[\"MistralForCausalLM\"]"}}, ErrorKind::kUnsupported, "Mistral"},
      {{{"architectures", "[\"GPT2LMHeadModel\"]"}, {"model_type", ""}},
       ErrorKind::kUnsupported,
       "architecture \"GPT2LMHeadModel\""},
      {{{"architectures", "[1]"}}, ErrorKind::kModel, "architectures"},
      {{{"architectures", "\"LlamaForCausalLM\""}}, ErrorKind::kModel, "architectures"},
      {{{"architectures", ""}, {"model_type", ""}}, ErrorKind::kModel, "model_type"},
      {{{"architectures", "[]"}, {"model_type", ""}}, ErrorKind::kModel, "model_type"},
      {{{"hidden_act", "\"gelu\""}}, ErrorKind::kUnsupported, "hidden_act \"gelu\""},
      {{{"attention_bias", "true"}}, ErrorKind::kUnsupported, "attention_bias true"},
      {{{"mlp_bias", "true"}}, ErrorKind::kUnsupported, "mlp_bias true"},
      {{{"quantization_config", "{\"quant_method\":\"gptq\"}"}},
       ErrorKind::kUnsupported,
       "quantization_config"},
      {{{"partial_rotary_factor", "0.5"}}, ErrorKind::kUnsupported, "partial_rotary_factor"}};
  for (const Case& item : cases) {
    const Outcome outcome = parse_outcome(with(kLlama, item.changes));
    CAPTURE(outcome.message);
    CAPTURE(item.named);
    CHECK(outcome.is(item.kind));
    CHECK(outcome.says(item.named));
    CHECK(outcome.says("config.json: "));
  }
}

// What a field comes to when it is 0, -1, 2^63, the string "x", null, NaN: o accepted, 3 and 4 the
// exit codes of kModel and kUnsupported.
struct WrongValues {
  const char* field;
  const char* verdicts;
};
constexpr const char* kWrong[] = {"0", "-1", "9223372036854775808", "\"x\"", "null", "NaN"};

constexpr WrongValues kTable[] = {
    {"hidden_size", "333333"},
    {"intermediate_size", "333333"},
    {"num_hidden_layers", "333333"},
    {"num_attention_heads", "333333"},
    {"num_key_value_heads", "3333o3"},
    {"head_dim", "3333o3"},
    {"vocab_size", "333333"},
    {"max_position_embeddings", "333333"},
    {"rms_norm_eps", "333333"},
    {"rope_theta", "333333"},
    {"rope_scaling", "3333o3"},
    {"rope_parameters", "3333o3"},
    {"sliding_window", "3333o3"},
    {"num_local_experts", "333333"},
    {"num_experts", "333333"},
    {"num_experts_per_tok", "333333"},
    {"bos_token_id", "o333o3"},
    {"eos_token_id", "o333o3"},
    {"tie_word_embeddings", "333333"},
    {"attention_bias", "333333"},
    {"mlp_bias", "333333"},
    {"hidden_act", "333433"},
    {"model_type", "333433"},
    {"architectures", "3333o3"},
    {"torch_dtype", "333oo3"},
    {"dtype", "333oo3"},
    {"quantization_config", "4444o3"},
    {"partial_rotary_factor", "433333"},
    {"original_max_position_embeddings", "3333o3"},
};

void check_verdict(const Fields& fields, char verdict, const std::string& named) {
  const Outcome outcome = parse_outcome(fields);
  CAPTURE(outcome.message);
  if (verdict == 'o') {
    CHECK(outcome.ok());
    return;
  }
  CHECK(outcome.is(verdict == '3' ? ErrorKind::kModel : ErrorKind::kUnsupported));
  CHECK(outcome.says("config.json: "));
  CHECK(outcome.says(named));
}

TEST_CASE("config: each field set to 0, -1, 2^63, a string, null, NaN gives the table's verdict") {
  for (const WrongValues& row : kTable) {
    for (std::size_t i = 0; i < std::size(kWrong); ++i) {
      CAPTURE(row.field);
      CAPTURE(kWrong[i]);
      Fields fields = with(mixtral_fields(), {{row.field, kWrong[i]}});
      if (std::string(row.field) == "original_max_position_embeddings") {
        fields["rope_scaling"] = "{\"rope_type\":\"yarn\",\"factor\":2.0}";
      }
      // NaN is no JSON: the reader refuses it before there is a field to name.
      check_verdict(fields, row.verdicts[i], i == 5 ? "byte" : row.field);
    }
  }
}

constexpr WrongValues kScalingTable[] = {
    {"rope_type", "333433"},
    {"factor", "333333"},
    {"low_freq_factor", "333333"},
    {"high_freq_factor", "333333"},
    {"original_max_position_embeddings", "3333o3"},
    {"rope_theta", "3333o3"},
};
constexpr WrongValues kYarnTable[] = {
    {"factor", "333333"},
    {"beta_fast",
     "333"
     "3o3"},
    {"beta_slow", "3333o3"},
    {"attention_factor", "3333o3"},
    {"mscale", "4444o3"},
    {"mscale_all_dim", "4444o3"},
    {"truncate", "444443"},
    {"unknown_parameter", "444443"},
};

void check_scaling_table(const Fields& scaling, const WrongValues& row) {
  for (std::size_t i = 0; i < std::size(kWrong); ++i) {
    CAPTURE(row.field);
    CAPTURE(kWrong[i]);
    const std::string changed = text_of(with(scaling, {{row.field, kWrong[i]}}));
    for (const char* schema : {"rope_scaling", "rope_parameters"}) {
      check_verdict(with(kLlama, {{schema, changed}, {"rope_theta", ""}}), row.verdicts[i],
                    i == 5 ? "byte" : row.field);
    }
  }
}

TEST_CASE("config: each RoPE parameter with the same wrong values, in both schemas") {
  const Fields llama3 = {{"rope_type", "\"llama3\""},
                         {"factor", "8.0"},
                         {"low_freq_factor", "1.0"},
                         {"high_freq_factor", "4.0"},
                         {"original_max_position_embeddings", "128"}};
  for (const WrongValues& row : kScalingTable) {
    check_scaling_table(llama3, row);
  }
  const Fields yarn = {{"rope_type", "\"yarn\""}, {"factor", "4.0"}};
  for (const WrongValues& row : kYarnTable) {
    check_scaling_table(yarn, row);
  }
}

TEST_CASE("config: both RoPE schemas read the same") {
  const RopeConfig expected{.kind = RopeKind::kLlama3,
                            .theta = 500000.0,
                            .factor = 8.0,
                            .low_freq_factor = 1.0,
                            .high_freq_factor = 4.0,
                            .original_positions = 8192};
  const std::string parameters =
      "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
      "\"original_max_position_embeddings\":8192}";
  for (const char* type : {"\"rope_type\":\"llama3\",", "\"type\":\"llama3\",",
                           "\"type\":\"llama3\",\"rope_type\":\"llama3\","}) {
    const std::string old_schema = "{" + std::string(type) + parameters;
    const std::string new_schema = "{\"rope_theta\":500000," + std::string(type) + parameters;
    CHECK(parse(with(kLlama, {{"rope_theta", "500000"}, {"rope_scaling", old_schema}})).rope ==
          expected);
    CHECK(parse(with(kLlama, {{"rope_theta", ""}, {"rope_parameters", new_schema}})).rope ==
          expected);
    CHECK(parse(with(kLlama, {{"rope_theta", "500000.0"},
                              {"rope_scaling", old_schema},
                              {"rope_parameters", new_schema}}))
              .rope == expected);
  }
  CHECK(parse(with(kLlama, {{"rope_theta", ""}, {"rope_parameters", "{\"rope_theta\":7e5}"}}))
            .rope.theta == 7e5);
  const ModelConfig yarn =
      parse(with(kLlama, {{"rope_scaling",
                           "{\"type\":\"yarn\",\"factor\":4,\"finetuned\":true,"
                           "\"beta_fast\":null,\"truncate\":true}"}}));
  CHECK(yarn.rope.kind == RopeKind::kYarn);
  CHECK(yarn.rope.original_positions == 256);
  CHECK(yarn.rope.beta_fast == 32.0);
  CHECK_FALSE(yarn.rope.attention_factor.has_value());
}

TEST_CASE("config: RoPE conflicts, gaps and kinds that are not there") {
  struct Case {
    Fields changes;
    ErrorKind kind;
    const char* named;
  };
  const Case cases[] = {
      {{{"rope_parameters", "{\"rope_theta\":500000.0}"}}, ErrorKind::kModel, "rope_theta"},
      {{{"rope_scaling", "{\"rope_type\":\"linear\",\"factor\":2}"},
        {"rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":10000}"}},
       ErrorKind::kModel,
       "rope_type"},
      {{{"rope_scaling", "{\"rope_type\":\"linear\",\"factor\":2}"},
        {"rope_parameters", "{\"rope_type\":\"linear\",\"factor\":4}"}},
       ErrorKind::kModel,
       "factor"},
      {{{"rope_scaling", "{\"rope_type\":\"linear\",\"type\":\"yarn\",\"factor\":2}"}},
       ErrorKind::kModel,
       "type"},
      {{{"rope_scaling", "{\"factor\":2}"}}, ErrorKind::kModel, "rope_type"},
      {{{"rope_scaling", "{\"type\":\"linear\"}"}}, ErrorKind::kModel, "factor"},
      {{{"rope_scaling", "{\"type\":\"llama3\",\"factor\":8,\"high_freq_factor\":4}"}},
       ErrorKind::kModel,
       "low_freq_factor"},
      {{{"rope_scaling",
         "{\"type\":\"llama3\",\"factor\":8,\"high_freq_factor\":4,\"low_freq_factor\":4}"}},
       ErrorKind::kModel,
       "more than low_freq_factor 4"},
      {{{"rope_scaling", "{\"type\":\"yarn\",\"factor\":2,\"beta_fast\":1,\"beta_slow\":2}"}},
       ErrorKind::kModel,
       "at least beta_slow 2"},
      {{{"rope_scaling", "{\"type\":\"yarn\",\"factor\":2}"}, {"rope_theta", "1"}},
       ErrorKind::kModel,
       "rope_theta"},
      {{{"rope_scaling",
         "{\"type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":64}"},
        {"original_max_position_embeddings", "128"}},
       ErrorKind::kModel,
       "original_max_position_embeddings"},
      {{{"rope_scaling", "{\"type\":\"dynamic\",\"factor\":2}"}},
       ErrorKind::kUnsupported,
       "\"dynamic\""},
      {{{"rope_scaling", "{\"type\":\"longrope\",\"factor\":2}"}},
       ErrorKind::kUnsupported,
       "\"longrope\""},
      {{{"rope_scaling", "{\"type\":\"longrope\",\"short_factor\":[1]}"}},
       ErrorKind::kUnsupported,
       "short_factor"},
      {{{"rope_parameters", "{\"full_attention\":{\"rope_type\":\"default\"}}"}},
       ErrorKind::kUnsupported,
       "full_attention"},
      {{{"rope_scaling", "{\"type\":\"yarn\",\"factor\":2,\"mscale\":1.0}"}},
       ErrorKind::kUnsupported,
       "mscale"},
      {{{"rope_scaling", "{\"type\":\"yarn\",\"factor\":2,\"truncate\":false}"}},
       ErrorKind::kUnsupported,
       "truncate"},
      {{{"rope_theta", "0.0"}}, ErrorKind::kModel, "expected a number in [1, 1e+15], found 0"}};
  for (const Case& item : cases) {
    const Outcome outcome = parse_outcome(with(kLlama, item.changes));
    CAPTURE(outcome.message);
    CAPTURE(item.named);
    CHECK(outcome.is(item.kind));
    CHECK(outcome.says(item.named));
  }
}

TEST_CASE("config: numbers that contradict each other say what was expected and found") {
  struct Case {
    Fields changes;
    const char* message;
  };
  const Case cases[] = {
      {{{"num_key_value_heads", "3"}},
       "num_key_value_heads: expected a divisor of num_attention_heads 8, found 3"},
      {{{"num_key_value_heads", "16"}},
       "num_key_value_heads: expected a divisor of num_attention_heads 8, found 16"},
      {{{"head_dim", ""}, {"hidden_size", "60"}},
       "hidden_size: expected a multiple of num_attention_heads 8"},
      {{{"head_dim", "7"}}, "head_dim: expected an even number, as RoPE turns pairs, found 7"},
      {{{"head_dim", ""}, {"hidden_size", "72"}}, "head_dim: expected an even number"},
      {{{"head_dim", "4096"}, {"num_attention_heads", "4096"}},
       "expected at most 1048576 heads x head_dim, found 16777216"},
      {{{"hidden_size", "64.0"}}, "hidden_size: expected an integer in [1, 262144], found 64"},
      {{{"hidden_size", "true"}}, "hidden_size: expected an integer in [1, 262144], found true"},
      {{{"bos_token_id", "512"}}, "bos_token_id: expected an integer in [0, 511], found 512"},
      {{{"eos_token_id", "[2,512]"}}, "eos_token_id: expected integers in [0, 511], found 512"},
      {{{"num_experts_per_tok", "9"}},
       "num_experts_per_tok: expected at most num_local_experts 8, found 9"},
      {{{"num_experts", "4"}}, "num_experts: expected 8, as num_local_experts, found 4"},
      {{{"rms_norm_eps", "1.5"}}, "rms_norm_eps: expected a number in [1e-30, 1], found 1.5"}};
  for (const Case& item : cases) {
    const Outcome outcome = parse_outcome(with(mixtral_fields(), item.changes));
    CAPTURE(outcome.message);
    CAPTURE(item.message);
    CHECK(outcome.is(ErrorKind::kModel));
    CHECK(outcome.says(item.message));
  }
  CHECK(parse(with(mixtral_fields(), {{"num_local_experts", ""}, {"num_experts", "4"}})).experts ==
        4);
}

TEST_CASE("config: default ids outside of a tiny vocabulary are left out") {
  const Fields tiny =
      with(kLlama, {{"vocab_size", "1"}, {"bos_token_id", ""}, {"eos_token_id", ""}});
  CHECK_FALSE(parse(tiny).bos_id.has_value());
  CHECK(parse(tiny).eos_ids.empty());
}

TEST_CASE("config: the stored dtype under either key and in either spelling") {
  CHECK(parse(with(kLlama, {{"torch_dtype", "\"torch.float16\""}})).stored_dtype == DType::kF16);
  CHECK(parse(with(kLlama, {{"dtype", "\"float32\""}, {"torch_dtype", ""}})).stored_dtype ==
        DType::kF32);
  CHECK_FALSE(parse(with(kLlama, {{"torch_dtype", "\"int8\""}})).stored_dtype.has_value());
}

TEST_CASE("config: files of a directory") {
  const test::TempDir dir;
  const Outcome none = outcome_of([&] { load_config(dir.path()); });
  CHECK(none.is(ErrorKind::kModel));
  CHECK(none.says((dir.path() / "config.json").string()));
  dir.write("config.json", text_of(kLlama));
  CHECK(load_config(dir.path()).hidden == 64);
  for (const char* text :
       {"", "[]", "null", "{\"model_type\":\"llama\",\"model_type\":\"llama\"}"}) {
    dir.write("config.json", text);
    CHECK(outcome_of([&] { load_config(dir.path()); }).is(ErrorKind::kModel));
  }
  for (const char* golden : {"gqa", "rope_llama3", "rope_llama3_v5", "rope_yarn", "window"}) {
    CAPTURE(golden);
    const auto data = test::source_dir() / "tests/model/data" / golden;
    CHECK(outcome_of([&] { load_config(data); }).ok());
  }
}

}  // namespace
}  // namespace engine
