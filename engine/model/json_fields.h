// Checked reading of the fields of a JSON object: type, range, and a message that names file and
// field. Refers to a Json that must outlive it. Every refusal is Error{kModel}:
// "DIR/config.json: hidden_size: expected an integer in [1, 262144], found -1".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/io/json.h"

namespace engine {

// What bounds a real number: [min, max], or (min, max] when `open_below`.
struct RealRange {
  double min;
  double max;
  bool open_below = false;
};

class JsonFields {
 public:
  // `where` is the file, or the file and the path of the object in it, for messages.
  JsonFields(const Json& object, std::string where);

  // The field, or null when it is absent.
  const Json* find(const char* key) const { return object_->find(key); }
  // The field, or null when it is absent or JSON null.
  const Json* value(const char* key) const;
  const std::vector<Json::Member>& members() const { return object_->members(); }
  const std::string& where() const { return where_; }

  // A field that may be absent (nothing comes back) but not JSON null.
  std::optional<std::int64_t> integer(const char* key, std::int64_t min, std::int64_t max) const;
  std::optional<double> real(const char* key, RealRange range) const;
  std::optional<bool> boolean(const char* key) const;
  std::optional<std::string> string(const char* key) const;

  // The same, where JSON null counts as absent.
  std::optional<std::int64_t> nullable_integer(const char* key, std::int64_t min,
                                               std::int64_t max) const;
  std::optional<double> nullable_real(const char* key, RealRange range) const;

  // One integer or an array of them; absent, null and an empty array give an empty list.
  std::vector<std::int64_t> integers(const char* key, std::int64_t min, std::int64_t max) const;

  // A nested object; absent and null give nothing.
  std::optional<JsonFields> object(const char* key) const;

  // Throws Error{kModel} for the field: "WHERE: key: expected ..., found ...".
  [[noreturn]] void refuse(const char* key, std::string_view expected,
                           std::string_view found) const;

 private:
  const Json* object_;
  std::string where_;
};

}  // namespace engine
