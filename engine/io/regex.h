// Regular expressions of tokenizer.json, run by PCRE2 (UTF, UCP, just-in-time compiled where the
// platform can).
//
// The files are written for Oniguruma. Where the two dialects agree the pattern is used as it is;
// `\s` and `\S` become explicit classes (PCRE2 counts U+180E as a space, Unicode does not), lines
// end in "\n" alone and ^ and $ match at each line. Constructs that mean something else in PCRE2
// (`\h`, `{n,m}+`, `&&` or a nested class inside a class) are refused by name.
//
// A Regex owns its compiled pattern, is immutable and may be shared by threads.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

// Half-open byte range of a text.
struct Span {
  size_t begin = 0;
  size_t end = 0;
};

class Regex {
 public:
  // Compiles `pattern`; `where` names the file and component in errors. Throws Error{kModel} for a
  // pattern that is not valid, Error{kUnsupported} for a construct that PCRE2 reads differently.
  Regex(std::string_view pattern, const std::string& where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // All matches in `text`, leftmost first, not overlapping. Bytes that are not UTF-8 match nothing
  // and end the text on either side of them as far as the pattern can see.
  std::vector<Span> find_all(std::string_view text) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The pattern in PCRE2's dialect; see the head of this file. Exposed for tests.
std::string translate_regex(std::string_view pattern, const std::string& where);

}  // namespace engine
