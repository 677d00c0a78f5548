// Tokenizing takes near-linear time, whatever the text. Measured in processor time of this process,
// on the small tokenizers of the goldens and, where the reference data is there, on real ones.
#include <algorithm>
#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/tokenizer_support.h"
#include "tests/support/testdata.h"

namespace engine::test {
namespace {

using Ids = std::vector<int32_t>;

constexpr size_t kMegabyte = size_t{1} << 20;

std::string repeat(std::string_view unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += unit;
  text.resize(bytes);
  return text;
}

std::string words(size_t bytes, const char* separator) {
  std::mt19937 random(23);
  std::string text;
  while (text.size() < bytes) {
    for (size_t letters = 1 + random() % 9; letters > 0; --letters) {
      text.push_back("etaoinshrdlu"[random() % 12]);
    }
    text += separator;
  }
  text.resize(bytes);
  return text;
}

// Texts of `bytes` bytes by name: ordinary ones and those that find a quadratic loop.
std::vector<std::pair<std::string, std::string>> texts(size_t bytes) {
  std::mt19937 random(29);
  std::string noise;
  while (noise.size() < bytes) noise.push_back(static_cast<char>(random()));
  std::string spaces_then_letter(bytes, ' ');
  spaces_then_letter.back() = 'x';
  return {{"words", words(bytes, " ")},
          {"words without spaces", words(bytes, "")},
          {"one letter", repeat("a", bytes)},
          {"two letters", repeat("ab", bytes)},
          {"spaces", repeat(" ", bytes)},
          {"spaces, then a letter", spaces_then_letter},
          {"line ends", repeat("\n", bytes)},
          {"spaces and line ends", repeat(" \n", bytes)},
          {"starts of added tokens", repeat("<|", bytes)},
          {"added tokens", repeat("<s>", bytes)},
          {"quotes", repeat("'", bytes)},
          {"CJK", repeat("\xE6\xB0\xB4\xE8\xBB\x8A", bytes - bytes % 6)},
          {"bytes that are not UTF-8", repeat("\xFF", bytes)},
          {"NUL", std::string(bytes, '\0')},
          {"random bytes", noise}};
}

double seconds_of(const Tokenizer& tokenizer, const std::string& text) {
  const std::clock_t start = std::clock();
  const Ids ids = tokenizer.encode(text, true);
  const std::string back = tokenizer.decode(ids);
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  CHECK((text.empty() || !ids.empty()));
  CHECK(is_utf8(back));
  return seconds;
}

// Growth from n = 64 KiB to 16 n. n log n with all the misses of a text that leaves the caches is a
// factor of 20 to 37, n^1.5 is 64 and a quadratic loop 256; times under 20 ms, which are mostly
// noise, count as 20 ms. 1 MiB takes 3 s at most on a slow processor, a quadratic loop far longer
// than 6. Neighbours that share caches and memory slow the longest text most, so times that miss
// the bounds are taken again, and the least of each counts.
void check_times(const std::string& name, const Tokenizer& tokenizer) {
  CAPTURE(name);
  const auto small = texts(kMegabyte / 16);
  const auto large = texts(kMegabyte);
  for (size_t i = 0; i < large.size(); ++i) {
    CAPTURE(large[i].first);
    double at_n = 1e9, at_16n = 1e9;
    for (int attempt = 0; attempt < 4; ++attempt) {
      at_n = std::min(at_n, std::max(seconds_of(tokenizer, small[i].second), 0.02));
      at_16n = std::min(at_16n, seconds_of(tokenizer, large[i].second));
      if (at_16n < 6.0 && at_16n < 64.0 * at_n) break;
    }
    CHECK(at_16n < 6.0);
    CHECK(at_16n < 64.0 * at_n);
  }
}

TEST_CASE("1 MiB takes near-linear time in every kind of small tokenizer") {
  for (const char* name :
       {"llama2", "metaspace first split", "strip and regex normalisers", "llama3", "gpt-2",
        "digits together", "split MergedWithNext", "line anchors and classes"}) {
    check_times(name, *load_document(compose_named(name)));
  }
  for (const char* name : {"plain.model", "folding.model"}) {
    check_times(name, *load_tokenizer(golden_directory() / name));
  }
}

TEST_CASE("1 MiB takes near-linear time in real tokenizers") {
  const auto root = testdata("tokenizers");
  if (!root) return;
  for (const char* name : {"llama2-spm", "phi-3-mini-json", "llama3-json"}) {
    check_times(name, *load_tokenizer(*root / name));
  }
}

TEST_CASE("a tokenizer of 128000 pieces and 280000 merges loads in under a second") {
  const auto path = testdata("tokenizers/llama3-json");
  if (!path) return;
  const std::clock_t start = std::clock();
  const auto tokenizer = load_tokenizer(*path);
  CHECK(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC < 1.0);
  CHECK(tokenizer->vocab_size() == 128256);
}

}  // namespace
}  // namespace engine::test
