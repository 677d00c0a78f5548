// A small reader of markup, so that tests can say what a page holds.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace engine::test {

// What keeps `text` from being well-formed: a tag that isn't closed or closes another one, a < or &
// that is no markup, an attribute without quotes. Empty where nothing does.
std::string markup_problem(std::string_view text);

// Every start tag of `text` as it stands between < and >.
std::vector<std::string> start_tags(std::string_view text);

// The value of the attribute `name` in a start tag; empty where it has none.
std::string attribute(const std::string& tag, const std::string& name);

}  // namespace engine::test
