#include "engine/io/tokenizer_json_template.h"

#include <string>

#include "kernels/core/check.h"

namespace engine {
namespace {

using Contains = std::function<bool(int32_t)>;

// The ids of one special token of a template, from its table `special_tokens`.
std::vector<int32_t> special_ids(const Json& component, const std::string& token,
                                 const std::string& where, const Contains& contains) {
  const std::string inside = where + ": special_tokens";
  const Json& table = json_member(component, "special_tokens", where);
  const Json& entry = json_member(table, token.c_str(), inside);
  std::vector<int32_t> ids;
  for (const Json& value : json_array(entry, "ids", inside)) {
    const std::optional<int32_t> id = as_token_id(value);
    ENGINE_CHECK(id && contains(*id), ErrorKind::kModel, inside, ": ", quote(token), ": id ",
                 value.describe(), " is not in the tokenizer");
    ids.push_back(*id);
  }
  return ids;
}

void read_single(const Json& component, const std::string& where, const Contains& contains,
                 TextTemplate& result) {
  std::vector<int32_t> before, after;
  bool text_seen = false;
  for (const Json& part : json_array(component, "single", where)) {
    const std::string inside = where + ": single";
    if (const Json* sequence = part.find("Sequence")) {
      const std::string which = json_string(*sequence, "id", inside);
      ENGINE_CHECK(which == "A" && !text_seen, ErrorKind::kModel, inside,
                   ": expected the sequence A once, found ", quote(which),
                   text_seen ? " again" : "");
      text_seen = true;
      continue;
    }
    const std::string token = json_string(json_member(part, "SpecialToken", inside), "id", inside);
    const std::vector<int32_t> ids = special_ids(component, token, where, contains);
    std::vector<int32_t>& side = text_seen ? after : before;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  ENGINE_CHECK(text_seen, ErrorKind::kModel, where, ": single: the sequence A is missing");
  result.present = true;
  result.prefix.insert(result.prefix.begin(), before.begin(), before.end());
  result.suffix.insert(result.suffix.end(), after.begin(), after.end());
}

void read_component(const Json& component, const std::string& where, const Contains& contains,
                    TextTemplate& result) {
  const std::string type = json_string(component, "type", where);
  if (type == "Sequence") {
    size_t index = 0;
    for (const Json& part : json_array(component, "processors", where)) {
      read_component(part, concat(where, '[', index++, ']'), contains, result);
    }
  } else if (type == "TemplateProcessing") {
    read_single(component, where, contains, result);
  } else {
    ENGINE_CHECK(type == "ByteLevel", ErrorKind::kUnsupported, where, ": post-processor ",
                 quote(type), " is not supported");
  }
}

}  // namespace

TextTemplate read_template(const TokenizerFile& file, const Contains& contains) {
  TextTemplate result;
  if (const Json* component = json_optional(file.root, "post_processor")) {
    read_component(*component, file.name + ": post_processor", contains, result);
  }
  return result;
}

}  // namespace engine
