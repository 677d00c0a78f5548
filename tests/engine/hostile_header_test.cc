// Headers made to hurt: what they may cost in time and memory, and tens of thousands of mutations.
// A suite of its own, because it replaces operator new to count the bytes that are alive.
#include <doctest/doctest.h>
#include <malloc.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <ctime>
#include <new>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "engine/io/checkpoint.h"
#include "engine/io/safetensors.h"
#include "tests/support/outcome.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace {

std::atomic<std::size_t> alive = 0;
std::atomic<std::size_t> peak = 0;

}  // namespace

void* operator new(std::size_t bytes) {
  void* block = std::malloc(bytes);
  if (block == nullptr) {
    throw std::bad_alloc();
  }
  const std::size_t now = alive += ::malloc_usable_size(block);
  peak = std::max(peak.load(), now);
  return block;
}
void operator delete(void* block) noexcept {
  alive -= block == nullptr ? 0 : ::malloc_usable_size(block);
  std::free(block);
}
void operator delete(void* block, std::size_t) noexcept { operator delete(block); }

namespace engine {
namespace {

using test::header_entry;
using test::Outcome;
using test::outcome_of;
using test::safetensors_bytes;
using test::TempDir;

constexpr std::size_t kMaxBytes = std::size_t{64} << 20;

// Sanitizers slow the parser down many times; what they look for needs fewer mutations.
#if defined(__SANITIZE_ADDRESS__)
constexpr double kMaxSeconds = 10.0;
constexpr int kMutations = 6'000;
#else
constexpr double kMaxSeconds = 1.0;
constexpr int kMutations = 30'000;
#endif

// Seconds of this thread's processor time, so that what else the machine does counts for nothing.
double cpu_seconds() {
  timespec now = {};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Cost {
  Outcome outcome;
  double seconds;
  std::size_t bytes;  // the most that was allocated at once
};

template <typename Call>
Cost cost_of(Call&& call) {
  const std::size_t before = alive;
  peak = before;
  const double start = cpu_seconds();
  Outcome outcome = outcome_of(call);
  const double seconds = cpu_seconds() - start;
  return {std::move(outcome), seconds, peak - before};
}

void check_cheap(const Cost& cost) {
  CAPTURE(cost.outcome.message);
  CHECK(cost.seconds < kMaxSeconds);
  CHECK(cost.bytes < kMaxBytes);
}

std::string repeated(std::string_view piece, std::size_t count) {
  std::string text;
  text.reserve(piece.size() * count);
  for (std::size_t i = 0; i < count; ++i) {
    text += piece;
  }
  return text;
}

// A header of `count` tensors of one byte; `change` may alter the entry of index i.
template <typename Change>
std::string entries(std::size_t count, Change&& change) {
  std::string header = "{";
  for (std::size_t i = 0; i < count; ++i) {
    header += i == 0 ? "" : ",";
    header += change(i);
  }
  return header + "}";
}

std::string plain_entry(std::size_t i) {
  return header_entry("model.layers." + std::to_string(i) + ".weight", "U8", "1", i, i + 1);
}

TEST_CASE("hostile headers: each is refused within a second and 64 MiB") {
  constexpr std::size_t kMany = 100'000;
  constexpr std::size_t kHuge = 20'000'000;
  const std::string open = "{\"a\":{\"dtype\":\"U8\",\"shape\":";
  const std::pair<const char*, std::string> headers[] = {
      {"arrays nested 10^5 deep", open + std::string(kMany, '[')},
      {"objects nested 10^5 deep", "{\"a\":{\"x\":" + repeated("{\"a\":", kMany)},
      {"20 million brackets", std::string(kHuge, '[')},
      {"a string of 20 MB", "{\"" + std::string(kHuge, 'x') + "\":0}"},
      {"an unterminated string of 20 MB", "{\"" + std::string(kHuge, 'x')},
      {"a number of 20 MB", open + "[" + std::string(kHuge, '1') + "]}}"},
      {"20 MB of blanks inside", "{" + std::string(kHuge, ' ') + "}"},
      {"a shape of 10 million dimensions", open + "[" + repeated("1,", kHuge / 2) + "1]}}"},
      {"1e400", open + "[1e400],\"data_offsets\":[0,1]}}"},
      {"lone surrogates", "{\"__metadata__\":{\"" + repeated("\\ud800", kMany) + "\":\"\"}}"},
      {"invalid UTF-8", "{\"" + std::string(kMany, '\xff') + "\":0}"},
      {"a dimension of 2^64 - 1",
       open + "[18446744073709551615],\"data_offsets\":[0,18446744073709551615]}}"},
      {"a tensor of 2^62 bytes",
       open + "[4611686018427387904],\"data_offsets\":[0,4611686018427387904]}}"},
      {"100k tensors, the last overlapping",
       entries(kMany, [](std::size_t i) { return plain_entry(i == kMany - 1 ? i - 1 : i); })},
      {"100k tensors, all overlapping",
       entries(kMany,
               [](std::size_t i) { return header_entry(std::to_string(i), "U8", "1", 0, 1); })},
      {"100k tensors with a hole", entries(kMany,
                                           [](std::size_t i) {
                                             const std::size_t at = i + (i > kMany / 2);
                                             return header_entry(std::to_string(i), "U8", "1", at,
                                                                 at + 1);
                                           })},
      {"100k times one name",
       entries(kMany, [](std::size_t i) { return header_entry("a", "U8", "1", i, i + 1); })},
      {"100k times one metadata key",
       "{\"__metadata__\":" +
           entries(kMany, [](std::size_t) { return std::string("\"k\":\"v\""); }) + "}"},
      {"100k tensors without data", entries(kMany, plain_entry)},
  };
  const TempDir dir;
  for (const auto& [what, header] : headers) {
    CAPTURE(what);
    const auto path = dir.write("x.safetensors", safetensors_bytes(header));
    const Cost cost = cost_of([&] { SafetensorsFile{path}; });
    CHECK(cost.outcome.is(ErrorKind::kModel));
    CHECK(cost.outcome.message.size() < 1000);
    check_cheap(cost);
  }
}

TEST_CASE("hostile headers: 100k honest tensors open within a second and 64 MiB") {
  constexpr std::size_t kMany = 100'000;
  const TempDir dir;
  const auto path = dir.write(
      "x.safetensors", safetensors_bytes(entries(kMany, plain_entry), std::string(kMany, 'x')));
  const Cost cost = cost_of([&] { CHECK(SafetensorsFile{path}.tensors().size() == kMany); });
  CHECK(cost.outcome.ok());
  check_cheap(cost);
}

TEST_CASE("hostile headers: an index nested or repeated 10^5 times is refused cheaply") {
  const TempDir dir;
  const std::string same =
      entries(100'000, [](std::size_t) { return std::string("\"a\":\"x.safetensors\""); });
  for (const std::string& text :
       {std::string("{\"weight_map\":") + repeated("{\"a\":", 100'000),
        "{\"metadata\":" + std::string(100'000, '['), "{\"weight_map\":" + same + "}"}) {
    dir.write("model.safetensors.index.json", text);
    const Cost cost = cost_of([&] { Checkpoint::open(dir.path()); });
    CHECK(cost.outcome.is(ErrorKind::kModel));
    check_cheap(cost);
  }
}

// The headers that mutation starts from: between them they hold every construct.
const std::array<std::string, 3> kSeeds = {
    "{" + header_entry("a", "F32", "2,3", 0, 24) + "," + header_entry("b", "BF16", "4", 24, 32) +
        ",\"__metadata__\":{\"format\":\"pt\"}}",
    " {\"__metadata__\":null," + header_entry("x.\\u00e9", "F4", "", 0, 0) + "} ",
    "{\"t\":{\"extra\":[{\"k\":-1.5e3},null,true],\"data_offsets\":[0,32],\"shape\":[1,4,8],"
    "\"dtype\":\"U8\"}}"};

// Pieces that turn one construct into another.
constexpr std::array<std::string_view, 32> kPieces = {"{",
                                                      "}",
                                                      "[",
                                                      "]",
                                                      ",",
                                                      ":",
                                                      "\"",
                                                      "\\",
                                                      "0",
                                                      "-",
                                                      "1e400",
                                                      "1e5",
                                                      ".5",
                                                      "null",
                                                      "true",
                                                      "NaN",
                                                      "18446744073709551615",
                                                      "9223372036854775808",
                                                      "4611686018427387904",
                                                      "\\ud800",
                                                      "\\u0000",
                                                      "\xff",
                                                      "\xef\xbb\xbf",
                                                      " ",
                                                      "\"dtype\"",
                                                      "\"shape\"",
                                                      "\"data_offsets\"",
                                                      "\"__metadata__\"",
                                                      "\"F6_E2M3\"",
                                                      "[[[[",
                                                      "{\"a\":",
                                                      "0,0,"};

std::string mutated(std::string text, std::mt19937_64& random) {
  const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
  for (std::size_t count = 1 + below(2) * below(4); count > 0 && !text.empty(); --count) {
    const std::size_t at = below(text.size());
    const std::size_t length = below(std::min<std::size_t>(text.size() - at, 24) + 1);
    switch (below(6)) {
      case 0:
        text[at] = static_cast<char>(below(256));
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, kPieces[below(kPieces.size())]);
        break;
      case 3:
        text.replace(at, length, kPieces[below(kPieces.size())]);
        break;
      case 4:
        text.insert(at, text.substr(below(text.size()), 24));
        break;
      default:
        text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
    }
  }
  return text;
}

// An accepted file must keep what acceptance promises.
void check_accepted(const SafetensorsFile& file) {
  std::uint64_t end = file.tensors().empty() ? file.file().size() : file.tensors()[0].offset;
  for (const SafetensorsTensor& tensor : file.tensors()) {
    std::uint64_t bits = static_cast<std::uint64_t>(safetensors_dtype_bits(tensor.dtype));
    for (const std::int64_t dimension : tensor.shape) {
      bits *= static_cast<std::uint64_t>(dimension);
    }
    REQUIRE(tensor.offset == end);
    REQUIRE(tensor.bytes * 8 == bits);
    end += tensor.bytes;
  }
  REQUIRE(end == file.file().size());
}

TEST_CASE("hostile headers: mutated files are each accepted whole or refused with kModel") {
  const TempDir dir;
  std::mt19937_64 random(20240229);
  int accepted = 0;
  for (int i = 0; i < kMutations; ++i) {
    const std::string header = mutated(kSeeds[static_cast<std::size_t>(i) % kSeeds.size()], random);
    std::string bytes = safetensors_bytes(header, std::string(i % 3 == 1 ? 0 : 32, 'x'));
    if (i % 16 == 0) {  // the length and the data, too
      bytes = mutated(bytes, random);
    }
    const auto path = dir.write("x.safetensors", bytes);
    const Outcome outcome = outcome_of([&] {
      check_accepted(SafetensorsFile{path});
      ++accepted;
    });
    REQUIRE_MESSAGE((outcome.ok() || outcome.is(ErrorKind::kModel)), "mutation ", i, ": ",
                    outcome.message);
    REQUIRE(outcome.message.size() < 1000);
  }
  // Both sides must be exercised: some mutations only touch names, blanks or skipped values.
  CHECK(accepted > kMutations / 100);
  CHECK(accepted < kMutations / 2);
}

}  // namespace
}  // namespace engine
