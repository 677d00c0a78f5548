#include "engine/model/json_fields.h"

#include <utility>

#include "kernels/core/check.h"

namespace engine {

JsonFields::JsonFields(const Json& object, std::string where)
    : object_(&object), where_(std::move(where)) {
  ENGINE_CHECK(object.is_object(), ErrorKind::kModel, where_, ": expected an object, found ",
               object.describe());
}

const Json* JsonFields::value(const char* key) const {
  const Json* field = find(key);
  return field == nullptr || field->is_null() ? nullptr : field;
}

void JsonFields::refuse(const char* key, std::string_view expected, std::string_view found) const {
  fail(ErrorKind::kModel, where_, ": ", key, ": expected ", expected, ", found ", found);
}

std::optional<std::int64_t> JsonFields::integer(const char* key, std::int64_t min,
                                                std::int64_t max) const {
  const Json* field = find(key);
  if (field == nullptr) {
    return std::nullopt;
  }
  if (!field->is_integer() || field->integer() < min || field->integer() > max) {
    refuse(key, concat("an integer in [", min, ", ", max, "]"), field->describe());
  }
  return field->integer();
}

std::optional<double> JsonFields::real(const char* key, RealRange range) const {
  const Json* field = find(key);
  if (field == nullptr) {
    return std::nullopt;
  }
  const bool in_range =
      field->is_number() && field->number() <= range.max &&
      (range.open_below ? field->number() > range.min : field->number() >= range.min);
  if (!in_range) {
    refuse(key,
           concat("a number in ", range.open_below ? "(" : "[", range.min, ", ", range.max, "]"),
           field->describe());
  }
  return field->number();
}

std::optional<bool> JsonFields::boolean(const char* key) const {
  const Json* field = find(key);
  if (field == nullptr) {
    return std::nullopt;
  }
  if (!field->is_bool()) {
    refuse(key, "true or false", field->describe());
  }
  return field->boolean();
}

std::optional<std::string> JsonFields::string(const char* key) const {
  const Json* field = find(key);
  if (field == nullptr) {
    return std::nullopt;
  }
  if (!field->is_string()) {
    refuse(key, "a string", field->describe());
  }
  return field->string();
}

std::optional<std::int64_t> JsonFields::nullable_integer(const char* key, std::int64_t min,
                                                         std::int64_t max) const {
  return value(key) == nullptr ? std::nullopt : integer(key, min, max);
}

std::optional<double> JsonFields::nullable_real(const char* key, RealRange range) const {
  return value(key) == nullptr ? std::nullopt : real(key, range);
}

std::vector<std::int64_t> JsonFields::integers(const char* key, std::int64_t min,
                                               std::int64_t max) const {
  const Json* field = value(key);
  if (field == nullptr) {
    return {};
  }
  if (!field->is_array()) {
    return {*integer(key, min, max)};
  }
  std::vector<std::int64_t> result;
  for (const Json& element : field->array()) {
    if (!element.is_integer() || element.integer() < min || element.integer() > max) {
      refuse(key, concat("integers in [", min, ", ", max, "]"), element.describe());
    }
    result.push_back(element.integer());
  }
  return result;
}

std::optional<JsonFields> JsonFields::object(const char* key) const {
  const Json* field = value(key);
  if (field == nullptr) {
    return std::nullopt;
  }
  return JsonFields(*field, concat(where_, ": ", key));
}

}  // namespace engine
