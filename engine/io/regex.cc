#include "engine/io/regex.h"

#include <algorithm>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "engine/io/json.h"
#include "engine/io/utf8.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

// The members of Unicode's White_Space as the inside of a class, and all other scalars.
constexpr const char* kSpaceClass = R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a})"
                                    R"(\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr const char* kNotSpaceClass =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff})"
    R"(\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";

// Bounds of one match attempt: PCRE2's own defaults stop at 10 M steps and 20 MB, which a long text
// may need; the heap bound (KiB) keeps a hostile pattern from taking the machine.
constexpr uint32_t kMatchLimit = 200'000'000;
constexpr uint32_t kHeapLimitKib = 512 * 1024;
constexpr size_t kJitStackStart = 64 * 1024;
constexpr size_t kJitStackMax = 64 * 1024 * 1024;

struct CodeFree {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
};
struct DataFree {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};
struct ContextFree {
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};
struct CompileContextFree {
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
};
struct StackFree {
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};

std::string error_text(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

// Rewrites a pattern character by character; `in_class` tells whether a [...] is open.
class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where)
      : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        class_character(c);
      } else {
        if (c == '[')
          open_class();
        else if (c == '}')
          close_brace();
        else
          copy();
      }
    }
    return std::move(out_);
  }

 private:
  void copy() { out_.push_back(pattern_[at_++]); }

  [[noreturn]] void refuse(const char* construct) const {
    fail(ErrorKind::kUnsupported, where_, ": regular expression ", quote(pattern_), " uses ",
         construct, ", which is not supported");
  }

  void escape() {
    ENGINE_CHECK(at_ + 1 < pattern_.size(), ErrorKind::kModel, where_, ": regular expression ",
                 quote(pattern_), " ends in a backslash");
    const char c = pattern_[at_ + 1];
    if (c == 'h' || c == 'H') refuse("\\h");
    if (c == 's' || c == 'S') {
      const char* members = c == 's' ? kSpaceClass : kNotSpaceClass;
      out_ += in_class_ ? std::string(members) : concat('[', members, ']');
    } else {
      out_ += pattern_.substr(at_, 2);
    }
    at_ += 2;
    const bool named = c == 'p' || c == 'P' || c == 'x';
    if (named && at_ < pattern_.size() && pattern_[at_] == '{') {  // \p{L}: not an interval
      const size_t end = std::min(pattern_.find('}', at_), pattern_.size() - 1);
      out_ += pattern_.substr(at_, end + 1 - at_);
      at_ = end + 1;
    }
  }

  void open_class() {
    in_class_ = true;
    copy();
    if (at_ < pattern_.size() && pattern_[at_] == '^') copy();
    if (at_ < pattern_.size() && pattern_[at_] == ']') copy();
  }

  void class_character(char c) {
    const bool more = at_ + 1 < pattern_.size();
    if (c == '[' && more && pattern_[at_ + 1] != ':') refuse("a class inside a class");
    if (c == '[' && more) {  // a POSIX class: copy it whole, so that its ']' does not close ours
      const size_t end = pattern_.find(":]", at_);
      ENGINE_CHECK(end != std::string_view::npos, ErrorKind::kModel, where_,
                   ": regular expression ", quote(pattern_), " has an open [:class");
      out_ += pattern_.substr(at_, end + 2 - at_);
      at_ = end + 2;
      return;
    }
    if (c == '&' && more && pattern_[at_ + 1] == '&') refuse("&& inside a class");
    if (c == ']') in_class_ = false;
    copy();
  }

  void close_brace() {
    copy();
    if (at_ < pattern_.size() && pattern_[at_] == '+') refuse("'+' after an interval {n,m}");
  }

  std::string_view pattern_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
  bool in_class_ = false;
};

// What pcre2_match works in: room for one span, limits and the stack of compiled code.
struct Scratch {
  std::unique_ptr<pcre2_match_data, DataFree> data{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_match_context, ContextFree> context{pcre2_match_context_create(nullptr)};
  std::unique_ptr<pcre2_jit_stack, StackFree> stack{
      pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr)};

  Scratch() {
    ENGINE_CHECK(data && context, ErrorKind::kMemory, "out of memory in a regular expression");
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_set_heap_limit(context.get(), kHeapLimitKib);
    if (stack) pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

}  // namespace

std::string translate_regex(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

struct Regex::Impl {
  std::unique_ptr<pcre2_code, CodeFree> code;
  std::string where;

  // Matches within one valid stretch of UTF-8, whose offset in the whole text is `base`.
  void scan(std::string_view text, size_t base, std::vector<Span>& matches) const;
};

void Regex::Impl::scan(std::string_view text, size_t base, std::vector<Span>& matches) const {
  // One scratch per thread: it serves every pattern, because only the whole match is asked for.
  thread_local const Scratch scratch;
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t at = 0;
  while (at <= text.size()) {
    // The text is known to be valid: checking it again at each match would be quadratic.
    int count = pcre2_match(code.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK,
                            scratch.data.get(), scratch.context.get());
    if (count == PCRE2_ERROR_JIT_STACKLIMIT) {
      count = pcre2_match(code.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                          scratch.data.get(), scratch.context.get());
    }
    if (count == PCRE2_ERROR_NOMATCH) return;
    ENGINE_CHECK(count >= 0, ErrorKind::kModel, where, ": regular expression failed at byte ",
                 base + at, ": ", error_text(count));
    const size_t* bounds = pcre2_get_ovector_pointer(scratch.data.get());
    // \K in a look-around can put the end of a match before its start.
    ENGINE_CHECK(bounds[0] >= at && bounds[1] >= bounds[0], ErrorKind::kUnsupported, where,
                 ": regular expression moves the start of its match");
    matches.push_back({base + bounds[0], base + bounds[1]});
    at = bounds[1];
    if (bounds[1] == bounds[0]) {  // an empty match: go on after the next scalar
      at += at < text.size() ? read_utf8(text.substr(at)).length : 1;
    }
  }
}

Regex::Regex(std::string_view pattern, const std::string& where) : impl_(std::make_unique<Impl>()) {
  const std::string translated = translate_regex(pattern, where);
  const std::unique_ptr<pcre2_compile_context, CompileContextFree> context(
      pcre2_compile_context_create(nullptr));
  ENGINE_CHECK(context != nullptr, ErrorKind::kMemory, "out of memory in a regular expression");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  size_t offset = 0;
  impl_->where = where;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                  translated.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                  &error, &offset, context.get()));
  ENGINE_CHECK(impl_->code != nullptr, ErrorKind::kModel, where, ": regular expression ",
               quote(pattern), " is not valid: ", error_text(error));
  // Without a just-in-time compiler the interpreter runs the same pattern.
  pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

std::vector<Span> Regex::find_all(std::string_view text) const {
  std::vector<Span> matches;
  size_t at = 0;
  while (at < text.size()) {
    const size_t length = valid_utf8_prefix(text.substr(at));
    if (length > 0) impl_->scan(text.substr(at, length), at, matches);
    at += length;
    if (at < text.size()) at += read_utf8(text.substr(at)).length;
  }
  return matches;
}

}  // namespace engine
