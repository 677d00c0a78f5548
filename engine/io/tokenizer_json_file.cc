#include "engine/io/tokenizer_json_file.h"

#include "kernels/core/check.h"

namespace engine {
namespace {

// Builds the document tree, but for the vocabulary and the merges of the model, which go straight
// into their tables: a tree of their half a million strings would cost more than all the rest.
// Messages are prefixed with the file and the position by parse_json_events.
class Reader final : public JsonEvents {
 public:
  explicit Reader(TokenizerFile& file) : file_(file) {}

  void null() override { add(Json()); }
  void boolean(bool value) override { add(Json(value)); }
  void negative(int64_t value) override { add(Json(value)); }
  void real(double value) override { add(Json(value)); }
  void non_negative(uint64_t value) override {
    if (table_ == Table::kVocab) {
      if (value > static_cast<uint64_t>(kMaxTokenId)) refuse_entry();
      file_.vocab.emplace_back(std::move(key_), static_cast<int32_t>(value));
    } else if (value > static_cast<uint64_t>(INT64_MAX)) {
      add(Json(static_cast<double>(value)));
    } else {
      add(Json(static_cast<int64_t>(value)));
    }
  }

  void string(std::string& value) override {
    if (table_ == Table::kMerges) {
      add_merge_line(value);
    } else if (table_ == Table::kMergePair) {
      pair_.push_back(std::move(value));
    } else {
      add(Json(std::move(value)));
    }
  }

  void key(std::string& name) override {
    key_ = std::move(name);
    if (open_.size() == 1) in_model_ = key_ == "model";
  }

  void begin_object() override {
    if (begins_table("vocab", file_.has_vocab)) {
      table_ = Table::kVocab;
    } else {
      open(true);
    }
  }
  void end_object() override {
    if (table_ == Table::kVocab) {
      table_ = Table::kNone;
    } else {
      const Frame frame = close();
      add(Json::object(std::move(frame.members)), frame.key);
    }
  }

  void begin_array() override {
    if (table_ == Table::kMerges) {
      table_ = Table::kMergePair;
      pair_.clear();
    } else if (begins_table("merges", file_.has_merges)) {
      table_ = Table::kMerges;
    } else {
      open(false);
    }
  }
  void end_array() override {
    if (table_ == Table::kMergePair) {
      if (pair_.size() != 2) refuse_entry();
      file_.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
      table_ = Table::kMerges;
    } else if (table_ == Table::kMerges) {
      table_ = Table::kNone;
    } else {
      const Frame frame = close();
      add(Json(std::move(frame.elements)), frame.key);
    }
  }

 private:
  enum class Table { kNone, kVocab, kMerges, kMergePair };

  // A container that is still open.
  struct Frame {
    bool is_object;
    std::string key;  // its own, in its parent
    std::vector<Json::Member> members;
    Json::Array elements;
  };

  [[noreturn]] void refuse_entry() const {
    if (table_ == Table::kVocab) {
      fail(ErrorKind::kModel, "model.vocab: the id of ", quote(key_), " is not an integer in [0, ",
           kMaxTokenId, "]");
    }
    fail(ErrorKind::kModel, "model.merges: entry ", file_.merges.size(),
         " is neither \"a b\" nor [\"a\", \"b\"]");
  }

  // True at the start of the member `name` of the model; `seen` becomes true.
  bool begins_table(const char* name, bool& seen) const {
    if (table_ != Table::kNone || open_.size() != 2 || !in_model_ || key_ != name) return false;
    ENGINE_CHECK(!seen, ErrorKind::kModel, "duplicate key ", quote(key_));
    seen = true;
    return true;
  }

  void add_merge_line(const std::string& line) {
    if (line.starts_with("#version")) return;  // the head line of merges.txt, kept by some writers
    const size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
      refuse_entry();
    }
    file_.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }

  void open(bool is_object) {
    if (table_ != Table::kNone) refuse_entry();
    open_.push_back({is_object, std::move(key_), {}, {}});
  }
  Frame close() {
    Frame frame = std::move(open_.back());
    open_.pop_back();
    return frame;
  }

  void add(Json value) { add(std::move(value), key_); }
  void add(Json value, const std::string& key) {
    if (table_ != Table::kNone) refuse_entry();
    if (open_.empty()) {
      file_.root = std::move(value);
    } else if (open_.back().is_object) {
      open_.back().members.emplace_back(key, std::move(value));
    } else {
      open_.back().elements.push_back(std::move(value));
    }
  }

  TokenizerFile& file_;
  std::vector<Frame> open_;
  std::string key_;
  bool in_model_ = false;
  Table table_ = Table::kNone;
  std::vector<std::string> pair_;
};

}  // namespace

TokenizerFile parse_tokenizer_file(std::string_view content, const std::string& name) {
  TokenizerFile file;
  file.name = name;
  Reader reader(file);
  const auto whole = [&content] { return std::exchange(content, {}); };
  parse_json_events(whole, name, content.size(), reader);
  ENGINE_CHECK(file.root.is_object(), ErrorKind::kModel, name, ": expected an object, found ",
               file.root.describe());
  return file;
}

const Json& json_member(const Json& object, const char* key, const std::string& where) {
  ENGINE_CHECK(object.is_object(), ErrorKind::kModel, where, ": expected an object, found ",
               object.describe());
  const Json* found = object.find(key);
  ENGINE_CHECK(found != nullptr, ErrorKind::kModel, where, ": \"", key, "\" is missing");
  return *found;
}

const Json* json_optional(const Json& object, const char* key) {
  const Json* found = object.find(key);
  return found == nullptr || found->is_null() ? nullptr : found;
}

std::string json_string(const Json& object, const char* key, const std::string& where) {
  const Json& value = json_member(object, key, where);
  ENGINE_CHECK(value.is_string(), ErrorKind::kModel, where, ": \"", key,
               "\": expected a string, found ", value.describe());
  return value.string();
}

std::optional<int32_t> as_token_id(const Json& value) {
  if (!value.is_integer() || value.integer() < 0 || value.integer() > kMaxTokenId) {
    return std::nullopt;
  }
  return static_cast<int32_t>(value.integer());
}

int32_t json_id(const Json& object, const char* key, const std::string& where) {
  const Json& value = json_member(object, key, where);
  const std::optional<int32_t> id = as_token_id(value);
  ENGINE_CHECK(id.has_value(), ErrorKind::kModel, where, ": \"", key,
               "\": expected an integer in [0, ", kMaxTokenId, "], found ", value.describe());
  return *id;
}

bool json_bool(const Json& object, const char* key, bool fallback, const std::string& where) {
  const Json* found = json_optional(object, key);
  if (found == nullptr) return fallback;
  ENGINE_CHECK(found->is_bool(), ErrorKind::kModel, where, ": \"", key,
               "\": expected true or false, found ", found->describe());
  return found->boolean();
}

const Json::Array& json_array(const Json& object, const char* key, const std::string& where) {
  const Json& value = json_member(object, key, where);
  ENGINE_CHECK(value.is_array(), ErrorKind::kModel, where, ": \"", key,
               "\": expected a list, found ", value.describe());
  return value.array();
}

}  // namespace engine
