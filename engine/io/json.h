// Strict JSON for files that nobody vouches for.
//
// Two readers over one grammar: parse_json() builds a Json value, parse_json_events() reports
// events from a source read in pieces and keeps nothing. Both refuse what RFC 8259 refuses and
// also: a byte order mark, NUL bytes, invalid UTF-8, lone surrogates, numbers beyond double
// (1e400), NaN and Infinity, and nesting deeper than kMaxJsonDepth. parse_json() refuses duplicate
// keys too. Every refusal is Error{kModel}: "NAME: byte 31: what was wrong".
//
// A Json owns its content. Const methods are safe from many threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace engine {

inline constexpr std::size_t kMaxJsonDepth = 64;

class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;

  Json() = default;  // null
  explicit Json(bool value) : value_(value) {}
  explicit Json(std::int64_t value) : value_(value) {}
  explicit Json(double value) : value_(value) {}
  explicit Json(std::string value) : value_(std::move(value)) {}
  explicit Json(Array elements) : value_(std::move(elements)) {}
  // An object. Error{kModel} naming the key that occurs twice.
  static Json object(std::vector<Member> members);

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  // A number written without fraction or exponent that fits in int64.
  bool is_integer() const { return std::holds_alternative<std::int64_t>(value_); }
  // Any number; integers beyond int64 are held as double.
  bool is_number() const { return is_integer() || std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }

  // The content; Error{kModel} when the value is of another type.
  bool boolean() const;
  std::int64_t integer() const;
  double number() const;  // also of an integer
  const std::string& string() const;
  const Array& array() const;
  const std::vector<Member>& members() const;  // in the order of the file

  // The member of an object, or null when there is none (or this is not an object).
  const Json* find(std::string_view key) const;

  // For messages: `-1`, `null`, `the string "abc"`, `an object`. At most about 80 characters,
  // without control characters.
  std::string describe() const;

 private:
  struct Object {
    std::vector<Member> members;
    std::vector<std::uint32_t> by_key;  // indices of `members`, sorted by key
  };
  [[noreturn]] void fail_type(const char* expected) const;

  std::variant<std::monostate, bool, std::int64_t, double, std::string, Array, Object> value_;
};

// `text` in double quotes, control characters and quotes escaped, cut at 64 bytes: how a name from
// a file is put into a message.
std::string quote(std::string_view text);

// Parses one JSON document; `name` is what messages call it.
Json parse_json(std::string_view text, const std::string& name);

// Parses a file of at most `max_bytes` bytes.
Json parse_json_file(const std::filesystem::path& path, std::uint64_t max_bytes);

// Receives the events of a document in order. Duplicate keys are the receiver's to refuse.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual void null() = 0;
  virtual void boolean(bool value) = 0;
  virtual void negative(std::int64_t value) = 0;       // an integer written with a minus sign
  virtual void non_negative(std::uint64_t value) = 0;  // an integer without one
  virtual void real(double value) = 0;                 // has a fraction, an exponent, or > 64 bits
  virtual void string(std::string& value) = 0;
  virtual void begin_object() = 0;
  virtual void key(std::string& value) = 0;
  virtual void end_object() = 0;
  virtual void begin_array() = 0;
  virtual void end_array() = 0;
};

// The next piece of a document, empty at its end; it must stay valid until the next call.
using JsonSource = std::function<std::string_view()>;

// Parses the document that `source` gives piece by piece, in memory bounded by the longest piece
// and the longest string. More than `max_token_bytes` bytes without an event (one huge string,
// number or run of blanks) are refused. An Error{kModel} that `events` throws is prefixed with
// `name` and the byte position.
void parse_json_events(const JsonSource& source, const std::string& name,
                       std::size_t max_token_bytes, JsonEvents& events);

}  // namespace engine
