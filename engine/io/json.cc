#include "engine/io/json.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engine/io/file.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

constexpr std::size_t kQuotedBytes = 64;
constexpr std::size_t kMaxDetail = 200;

// The bytes of a JsonSource, one by one, with what the parser itself does not look at: NUL bytes
// (it takes one for the end), a byte order mark (it skips one) and the length of a token.
class ByteReader {
 public:
  ByteReader(const JsonSource& source, std::size_t max_token_bytes)
      : source_(source), max_token_bytes_(max_token_bytes) {
    refill();
    ENGINE_CHECK(piece_.empty() || piece_[0] != '\xef', ErrorKind::kModel,
                 "expected JSON, found a byte order mark or text that is not ASCII");
  }

  bool at_end() const { return next_ == piece_.size(); }
  char current() const { return piece_[next_]; }
  void advance() {
    ++next_;
    if (next_ == piece_.size()) {
      refill();
    }
  }
  std::uint64_t position() const { return base_ + next_; }
  // An event was reported: a new token begins.
  void mark() { token_start_ = position(); }

 private:
  void refill() {
    base_ += piece_.size();
    next_ = 0;
    ENGINE_CHECK(base_ - token_start_ <= max_token_bytes_, ErrorKind::kModel, "more than ",
                 max_token_bytes_, " bytes in one string, number or run of blanks");
    piece_ = source_();
    ENGINE_CHECK(piece_.find('\0') == std::string_view::npos, ErrorKind::kModel,
                 "a NUL byte in JSON");
  }

  const JsonSource& source_;
  std::size_t max_token_bytes_;
  std::string_view piece_;
  std::size_t next_ = 0;
  std::uint64_t base_ = 0;
  std::uint64_t token_start_ = 0;
};

// The input iterator that nlohmann's parser reads; a null reader is the end.
class ByteIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  explicit ByteIterator(ByteReader* reader) : reader_(reader) {}
  char operator*() const { return reader_->current(); }
  ByteIterator& operator++() {
    reader_->advance();
    return *this;
  }
  ByteIterator operator++(int) {
    reader_->advance();
    return *this;
  }
  friend bool operator==(const ByteIterator& a, const ByteIterator& b) {
    return a.ended() == b.ended();
  }
  friend bool operator!=(const ByteIterator& a, const ByteIterator& b) { return !(a == b); }

 private:
  bool ended() const { return reader_ == nullptr || reader_->at_end(); }
  ByteReader* reader_;
};

// What nlohmann says of an error, without its prefix and without the text it last read, which can
// be of any length and content.
std::string parser_detail(const char* what) {
  std::string_view text = what;
  if (const auto bracket = text.find("] "); bracket != std::string_view::npos) {
    text.remove_prefix(bracket + 2);
  }
  text = text.substr(0, text.find("; last read"));
  text = text.substr(0, std::min(text.size(), kMaxDetail));
  for (const std::string_view prefix : {"parse error at ", "parse error: "}) {
    if (text.starts_with(prefix)) {
      text.remove_prefix(prefix.size());
    }
  }
  return std::string(text);
}

// Turns nlohmann's SAX calls into JsonEvents and bounds the depth.
class SaxAdapter {
 public:
  using Value = nlohmann::json;

  SaxAdapter(ByteReader& reader, JsonEvents& events) : reader_(reader), events_(events) {}

  bool null() { return events_.null(), done(); }
  bool boolean(bool value) { return events_.boolean(value), done(); }
  bool number_integer(Value::number_integer_t value) { return events_.negative(value), done(); }
  bool number_unsigned(Value::number_unsigned_t value) {
    return events_.non_negative(value), done();
  }
  bool number_float(Value::number_float_t value, const Value::string_t&) {
    return events_.real(value), done();
  }
  bool string(Value::string_t& value) { return events_.string(value), done(); }
  bool binary(Value::binary_t&) { fail(ErrorKind::kInternal, "a binary value in JSON text"); }
  bool start_object(std::size_t) { return enter(), events_.begin_object(), done(); }
  bool key(Value::string_t& value) { return events_.key(value), done(); }
  bool end_object() { return --depth_, events_.end_object(), done(); }
  bool start_array(std::size_t) { return enter(), events_.begin_array(), done(); }
  bool end_array() { return --depth_, events_.end_array(), done(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) {
    fail(ErrorKind::kModel, parser_detail(error.what()));
  }

 private:
  void enter() {
    ENGINE_CHECK(++depth_ <= kMaxJsonDepth, ErrorKind::kModel, "nested deeper than ",
                 kMaxJsonDepth);
  }
  bool done() { return reader_.mark(), true; }

  ByteReader& reader_;
  JsonEvents& events_;
  std::size_t depth_ = 0;
};

// Builds a Json value.
class Builder : public JsonEvents {
 public:
  void null() override { add(Json()); }
  void boolean(bool value) override { add(Json(value)); }
  void negative(std::int64_t value) override { add(Json(value)); }
  void non_negative(std::uint64_t value) override {
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      add(Json(static_cast<double>(value)));
    } else {
      add(Json(static_cast<std::int64_t>(value)));
    }
  }
  void real(double value) override { add(Json(value)); }
  void string(std::string& value) override { add(Json(std::move(value))); }
  void begin_object() override { open_.emplace_back(); }
  void key(std::string& value) override { open_.back().key = std::move(value); }
  void end_object() override {
    std::vector<Json::Member> members = std::move(open_.back().members);
    open_.pop_back();
    add(Json::object(std::move(members)));
  }
  void begin_array() override { open_.emplace_back().is_array = true; }
  void end_array() override {
    Json::Array elements = std::move(open_.back().elements);
    open_.pop_back();
    add(Json(std::move(elements)));
  }
  Json take() { return std::move(root_); }

 private:
  struct Open {
    bool is_array = false;
    std::string key;
    std::vector<Json::Member> members;
    Json::Array elements;
  };

  void add(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (open_.back().is_array) {
      open_.back().elements.push_back(std::move(value));
    } else {
      open_.back().members.emplace_back(std::move(open_.back().key), std::move(value));
    }
  }

  std::vector<Open> open_;
  Json root_;
};

}  // namespace

std::string quote(std::string_view text) {
  std::string result = "\"";
  for (const char c : text.substr(0, kQuotedBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\x%02x", byte);
      result += escape;
    } else {
      result += c;
    }
  }
  return result + (text.size() > kQuotedBytes ? "...\"" : "\"");
}

Json Json::object(std::vector<Member> members) {
  Object object;
  object.by_key.resize(members.size());
  std::iota(object.by_key.begin(), object.by_key.end(), 0u);
  std::sort(object.by_key.begin(), object.by_key.end(),
            [&](std::uint32_t a, std::uint32_t b) { return members[a].first < members[b].first; });
  const auto twin = std::adjacent_find(
      object.by_key.begin(), object.by_key.end(),
      [&](std::uint32_t a, std::uint32_t b) { return members[a].first == members[b].first; });
  ENGINE_CHECK(twin == object.by_key.end(), ErrorKind::kModel, "the key ",
               quote(members[*twin].first), " occurs twice in one object");
  object.members = std::move(members);
  Json result;
  result.value_ = std::move(object);
  return result;
}

void Json::fail_type(const char* expected) const {
  fail(ErrorKind::kModel, "expected ", expected, ", found ", describe());
}

bool Json::boolean() const {
  if (!is_bool()) {
    fail_type("true or false");
  }
  return std::get<bool>(value_);
}

std::int64_t Json::integer() const {
  if (!is_integer()) {
    fail_type("an integer");
  }
  return std::get<std::int64_t>(value_);
}

double Json::number() const {
  if (!is_number()) {
    fail_type("a number");
  }
  return is_integer() ? static_cast<double>(std::get<std::int64_t>(value_))
                      : std::get<double>(value_);
}

const std::string& Json::string() const {
  if (!is_string()) {
    fail_type("a string");
  }
  return std::get<std::string>(value_);
}

const Json::Array& Json::array() const {
  if (!is_array()) {
    fail_type("an array");
  }
  return std::get<Array>(value_);
}

const std::vector<Json::Member>& Json::members() const {
  if (!is_object()) {
    fail_type("an object");
  }
  return std::get<Object>(value_).members;
}

const Json* Json::find(std::string_view key) const {
  if (!is_object()) {
    return nullptr;
  }
  const Object& object = std::get<Object>(value_);
  const auto found = std::lower_bound(
      object.by_key.begin(), object.by_key.end(), key,
      [&](std::uint32_t index, std::string_view k) { return object.members[index].first < k; });
  if (found == object.by_key.end() || object.members[*found].first != key) {
    return nullptr;
  }
  return &object.members[*found].second;
}

std::string Json::describe() const {
  if (is_null()) {
    return "null";
  }
  if (is_bool()) {
    return std::get<bool>(value_) ? "true" : "false";
  }
  if (is_integer()) {
    return std::to_string(std::get<std::int64_t>(value_));
  }
  if (is_number()) {
    char text[32];
    std::snprintf(text, sizeof text, "%.17g", std::get<double>(value_));
    return text;
  }
  if (is_string()) {
    return "the string " + quote(std::get<std::string>(value_));
  }
  return is_array() ? "an array" : "an object";
}

void parse_json_events(const JsonSource& source, const std::string& name,
                       std::size_t max_token_bytes, JsonEvents& events) {
  std::uint64_t position = 0;
  try {
    ByteReader reader(source, max_token_bytes);
    try {
      SaxAdapter adapter(reader, events);
      nlohmann::json::sax_parse(ByteIterator(&reader), ByteIterator(nullptr), &adapter);
    } catch (...) {
      position = reader.position();
      throw;
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kModel) {
      throw;
    }
    fail(ErrorKind::kModel, name, ": byte ", position, ": ", error.what());
  }
}

Json parse_json(std::string_view text, const std::string& name) {
  Builder builder;
  const JsonSource source = [rest = text]() mutable { return std::exchange(rest, {}); };
  parse_json_events(source, name, text.size(), builder);
  return builder.take();
}

Json parse_json_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  return parse_json(read_text_file(path, max_bytes), path.string());
}

}  // namespace engine
