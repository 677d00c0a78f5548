#include "tests/bench/markup.h"

#include <algorithm>
#include <cctype>

namespace engine::test {
namespace {

constexpr std::string_view kReferences[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};

bool is_name(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == ':';
  });
}

std::string_view name_of(std::string_view tag) {
  return tag.substr(0, std::min(tag.find_first_of(" \n/"), tag.size()));
}

bool has_bare_ampersand(std::string_view text) {
  for (std::size_t at = text.find('&'); at != std::string_view::npos; at = text.find('&', at + 1)) {
    if (std::none_of(std::begin(kReferences), std::end(kReferences),
                     [&](std::string_view r) { return text.substr(at).starts_with(r); })) {
      return true;
    }
  }
  return false;
}

// What is wrong with the attributes in `rest`, the part of a start tag behind its name.
std::string attribute_problem(std::string_view rest) {
  while (!rest.empty()) {
    if (rest.front() == ' ' || rest.front() == '\n') {
      rest.remove_prefix(1);
      continue;
    }
    const std::size_t equal = rest.find('=');
    if (equal == std::string_view::npos || !is_name(rest.substr(0, equal))) return "no name";
    if (rest.size() < equal + 2 || rest[equal + 1] != '"') return "no quote";
    const std::size_t end = rest.find('"', equal + 2);
    if (end == std::string_view::npos) return "no closing quote";
    const std::string_view value = rest.substr(equal + 2, end - equal - 2);
    if (value.find('<') != std::string_view::npos || has_bare_ampersand(value))
      return "not escaped";
    rest.remove_prefix(end + 1);
  }
  return "";
}

// Where the tag that opens at `at` ends: the > outside of quotes.
std::size_t tag_end(std::string_view text, std::size_t at) {
  bool quoted = false;
  for (; at < text.size(); ++at) {
    if (text[at] == '"') quoted = !quoted;
    if (text[at] == '>' && !quoted) return at;
  }
  return std::string_view::npos;
}

}  // namespace

std::string markup_problem(std::string_view text) {
  std::vector<std::string_view> open;
  std::size_t at = 0;
  if (text.starts_with("<!DOCTYPE html>")) at = text.find('>') + 1;
  while (at < text.size()) {
    const std::size_t tag = std::min(text.find('<', at), text.size());
    const std::string_view between = text.substr(at, tag - at);
    if (has_bare_ampersand(between)) return "a bare & in: " + std::string(between);
    if (tag == text.size()) break;
    const std::size_t end = tag_end(text, tag);
    if (end == std::string_view::npos) return "a < without its >";
    std::string_view inside = text.substr(tag + 1, end - tag - 1);
    at = end + 1;
    if (inside.starts_with('/')) {
      inside.remove_prefix(1);
      if (open.empty() || open.back() != inside) return "closes " + std::string(inside);
      open.pop_back();
      continue;
    }
    const bool empty = inside.ends_with('/');
    if (empty) inside.remove_suffix(1);
    const std::string_view name = name_of(inside);
    if (!is_name(name)) return "a < that opens no tag: " + std::string(inside);
    const std::string wrong = attribute_problem(inside.substr(name.size()));
    if (!wrong.empty()) return wrong + " in <" + std::string(inside) + ">";
    if (!empty) open.push_back(name);
  }
  return open.empty() ? "" : "never closed: " + std::string(open.back());
}

std::vector<std::string> start_tags(std::string_view text) {
  std::vector<std::string> tags;
  for (std::size_t at = text.find('<'); at != std::string_view::npos; at = text.find('<', at + 1)) {
    const std::size_t end = tag_end(text, at);
    if (end == std::string_view::npos) break;
    if (text[at + 1] != '/' && text[at + 1] != '!') {
      tags.emplace_back(text.substr(at + 1, end - at - 1));
    }
  }
  return tags;
}

std::string attribute(const std::string& tag, const std::string& name) {
  const std::string opening = " " + name + "=\"";
  const std::size_t at = tag.find(opening);
  if (at == std::string::npos) return "";
  const std::size_t begin = at + opening.size();
  return tag.substr(begin, tag.find('"', begin) - begin);
}

}  // namespace engine::test
