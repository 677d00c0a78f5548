#include "engine/model/rope_config.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/check.h"

namespace engine {
namespace {

constexpr RealRange kTheta = {1.0, 1e15};
constexpr RealRange kFactor = {1e-3, 1e6};
constexpr RealRange kBeta = {1e-3, 1e6};
constexpr RealRange kAttentionFactor = {0.0, 1e3, true};
constexpr std::int64_t kMaxPositions = std::int64_t{1} << 28;

// The parameters that some object may hold; "finetuned" says how the weights came about and
// changes nothing.
constexpr std::array<std::string_view, 15> kKnown = {"rope_type",
                                                     "type",
                                                     "rope_theta",
                                                     "factor",
                                                     "low_freq_factor",
                                                     "beta_fast",
                                                     "beta_slow",
                                                     "high_freq_factor",
                                                     "mscale",
                                                     "truncate",
                                                     "mscale_all_dim",
                                                     "original_max_position_embeddings",
                                                     "finetuned",
                                                     "attention_factor",
                                                     "partial_rotary_factor"};

// The objects of one config in which RoPE parameters stand.
class RopeFields {
 public:
  explicit RopeFields(const JsonFields& config) : config_(config) {
    for (const char* key : {"rope_parameters", "rope_scaling"}) {
      if (std::optional<JsonFields> object = config.object(key);
          object && !object->members().empty()) {
        check_known(*object);
        objects_.push_back(*object);
      }
    }
  }

  // Whether there is a parameter beside the base frequency.
  bool has_scaling() const {
    for (const JsonFields& object : objects_) {
      for (const auto& [key, value] : object.members()) {
        if (key != "rope_theta" && !value.is_null()) {
          return true;
        }
      }
    }
    return false;
  }

  // The kind's name, under either key, in all objects the same.
  std::optional<std::string> kind() const {
    std::optional<std::string> result;
    for (const JsonFields& object : objects_) {
      for (const char* key : {"rope_type", "type"}) {
        if (object.value(key) != nullptr) {
          merge(object, key, object.string(key), result);
        }
      }
    }
    return result;
  }

  // A number that may stand in the objects and, if `at_top`, beside them.
  std::optional<double> real(const char* key, RealRange range, bool at_top = false) const {
    std::optional<double> result;
    for (const JsonFields& object : objects_) {
      merge(object, key, object.nullable_real(key, range), result);
    }
    if (at_top) {
      merge(config_, key, config_.real(key, range), result);
    }
    return result;
  }

  std::optional<std::int64_t> original_positions() const {
    constexpr const char* kKey = "original_max_position_embeddings";
    std::optional<std::int64_t> result;
    for (const JsonFields& object : objects_) {
      merge(object, kKey, object.nullable_integer(kKey, 1, kMaxPositions), result);
    }
    merge(config_, kKey, config_.nullable_integer(kKey, 1, kMaxPositions), result);
    return result;
  }

  // Refuses a parameter that the engine does not have, wherever it is set.
  void refuse_if_set(const char* key) const {
    for (const JsonFields& object : objects_) {
      const Json* field = object.value(key);
      ENGINE_CHECK(field == nullptr, ErrorKind::kUnsupported, object.where(), ": ", key, " ",
                   field->describe(), " is not supported");
    }
  }

  // Yarn's rounding of the ramp's ends can be switched off, with false and in effect with null.
  void refuse_without_truncation() const {
    for (const JsonFields& object : objects_) {
      const Json* field = object.find("truncate");
      ENGINE_CHECK(field == nullptr || (field->is_bool() && field->boolean()),
                   ErrorKind::kUnsupported, object.where(),
                   ": truncate: only true is supported, found ", field->describe());
    }
  }

  // A required parameter of `kind`.
  double require(const char* key, RealRange range, std::string_view kind) const {
    const std::optional<double> value = real(key, range);
    if (!value) {
      refuse(key, concat("a number, which rope_type ", quote(kind), " needs"), "none");
    }
    return *value;
  }

  [[noreturn]] void refuse(const char* key, std::string_view expected,
                           std::string_view found) const {
    (objects_.empty() ? config_ : objects_.front()).refuse(key, expected, found);
  }

 private:
  static void check_known(const JsonFields& object) {
    for (const auto& [key, value] : object.members()) {
      ENGINE_CHECK(std::find(kKnown.begin(), kKnown.end(), key) != kKnown.end(),
                   ErrorKind::kUnsupported, object.where(), ": the parameter ", quote(key),
                   " is not supported");
    }
  }

  template <typename T>
  static void merge(const JsonFields& fields, const char* key, const std::optional<T>& value,
                    std::optional<T>& result) {
    if (value && result && *value != *result) {
      fields.refuse(key, concat(*result, ", as elsewhere in this file"), concat(*value));
    }
    if (value) {
      result = value;
    }
  }

  const JsonFields& config_;
  std::vector<JsonFields> objects_;
};

RopeKind rope_kind(const RopeFields& fields, const std::string& where) {
  const std::optional<std::string> name = fields.kind();
  if (!name) {
    if (fields.has_scaling()) {
      fields.refuse("rope_type", "the kind of scaling", "none");
    }
    return RopeKind::kDefault;
  }
  for (const RopeKind kind :
       {RopeKind::kDefault, RopeKind::kLinear, RopeKind::kLlama3, RopeKind::kYarn}) {
    if (*name == rope_kind_name(kind)) {
      return kind;
    }
  }
  fail(ErrorKind::kUnsupported, where, ": rope_type ", quote(*name),
       " is not supported (default, linear, llama3 and yarn are)");
}

void parse_llama3(const RopeFields& fields, RopeConfig& rope) {
  rope.low_freq_factor = fields.require("low_freq_factor", kFactor, "llama3");
  rope.high_freq_factor = fields.require("high_freq_factor", kFactor, "llama3");
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    fields.refuse("high_freq_factor", concat("more than low_freq_factor ", rope.low_freq_factor),
                  concat(rope.high_freq_factor));
  }
}

void parse_yarn(const RopeFields& fields, RopeConfig& rope) {
  fields.refuse_if_set("mscale");
  fields.refuse_if_set("mscale_all_dim");
  fields.refuse_without_truncation();
  rope.beta_fast = fields.real("beta_fast", kBeta).value_or(rope.beta_fast);
  rope.beta_slow = fields.real("beta_slow", kBeta).value_or(rope.beta_slow);
  rope.attention_factor = fields.real("attention_factor", kAttentionFactor);
  if (rope.beta_fast < rope.beta_slow) {
    fields.refuse("beta_fast", concat("at least beta_slow ", rope.beta_slow),
                  concat(rope.beta_fast));
  }
  if (rope.theta <= 1.0) {
    fields.refuse("rope_theta", "more than 1, which rope_type \"yarn\" needs", concat(rope.theta));
  }
}

}  // namespace

RopeConfig parse_rope_config(const JsonFields& config, double default_theta,
                             std::int64_t max_positions) {
  const RopeFields fields(config);
  RopeConfig rope;
  rope.kind = rope_kind(fields, config.where());
  rope.theta = fields.real("rope_theta", kTheta, true).value_or(default_theta);
  const double rotated = fields.real("partial_rotary_factor", {0.0, 1.0}, true).value_or(1.0);
  ENGINE_CHECK(rotated == 1.0, ErrorKind::kUnsupported, config.where(),
               ": partial_rotary_factor: only 1 is supported, found ", rotated);
  if (rope.kind == RopeKind::kDefault) {
    return rope;
  }
  rope.factor = fields.require("factor", kFactor, rope_kind_name(rope.kind));
  if (rope.kind == RopeKind::kLinear) {
    return rope;
  }
  rope.original_positions = fields.original_positions().value_or(max_positions);
  if (rope.kind == RopeKind::kLlama3) {
    parse_llama3(fields, rope);
  } else {
    parse_yarn(fields, rope);
  }
  return rope;
}

}  // namespace engine
