// Mutated checkpoint directories: whatever the bytes, the program ends by itself, soon, with a code
// of the contract and one error line.
//
// ENGINE_FUZZ_RUNS=10000 runs that many instead of a few hundred; ENGINE_FUZZ_SEED=S another
// series. A failure names seed and run, and the pair gives the same directory again.
#include <cstdlib>
#include <string>
#include <vector>

#include "tests/cli/generate_run.h"
#include "tests/support/inputs.h"
#include "tests/support/random_checkpoint.h"

namespace engine::test {
namespace {

// One file of the directory, and how many of its first bytes are worth mutating.
struct Part {
  std::string name, content;
  std::size_t reach;
};

std::int64_t from_environment(const char* name, std::int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoll(text, nullptr, 10);
}

// Places where a number stands in `text`: begin and length.
std::vector<std::pair<std::size_t, std::size_t>> numbers_in(const std::string& text,
                                                            std::size_t reach) {
  std::vector<std::pair<std::size_t, std::size_t>> found;
  constexpr const char* kDigits = "0123456789";
  for (std::size_t at = text.find_first_of(kDigits); at < reach;) {
    const std::size_t end = std::min(text.find_first_not_of(kDigits, at), text.size());
    found.push_back({at, end - at});
    at = text.find_first_of(kDigits, end);
  }
  return found;
}

std::string mutate(std::string text, std::size_t reach, Random& random) {
  static const std::vector<std::string> kValues = {"0",
                                                   "-1",
                                                   "1",
                                                   "2",
                                                   "3",
                                                   "1e400",
                                                   "1e-400",
                                                   "2147483648",
                                                   "4294967297",
                                                   "9223372036854775807",
                                                   "9223372036854775808",
                                                   "18446744073709551616",
                                                   "0.5",
                                                   "null",
                                                   "true",
                                                   "\"\"",
                                                   "[]",
                                                   "{}",
                                                   "NaN",
                                                   "65536",
                                                   "1000000000",
                                                   "[[[[[[[[[[",
                                                   "\"\\ud800\"",
                                                   "\"\\u0000\"",
                                                   "\"../x\""};
  reach = std::min(reach, text.size());
  const auto place = [&] {
    return static_cast<std::size_t>(random.below(static_cast<std::int64_t>(reach) + 1));
  };
  const auto length = [&] { return static_cast<std::size_t>(random.below(16) + 1); };
  const auto value = [&] {
    return kValues[static_cast<std::size_t>(
        random.below(static_cast<std::int64_t>(kValues.size())))];
  };
  const std::size_t at = place();
  switch (random.below(8)) {
    case 0:
      if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << random.below(8)));
      return text;
    case 1:
      return text.erase(at, length());
    case 2:
      return text.insert(at, text.substr(place(), length()));
    case 3:
      for (std::size_t i = length(); i > 0; --i) {
        text.insert(at, 1, static_cast<char>(random.below(256)));
      }
      return text;
    case 4:
      return text.insert(at, value());
    case 5:
      return text.substr(0, at);
    default: {
      const auto numbers = numbers_in(text, reach);
      if (numbers.empty()) return text;
      const auto [begin, size] = numbers[static_cast<std::size_t>(
          random.below(static_cast<std::int64_t>(numbers.size())))];
      return text.replace(begin, size, value());
    }
  }
}

TEST_CASE("mutated checkpoint directories end with a documented code") {
  CheckpointShape shape;
  shape.shards = 2;
  shape.hidden = 16;
  shape.intermediate = 24;
  shape.layers = 1;
  shape.heads = 2;
  shape.kv_heads = 1;
  const RandomCheckpoint checkpoint(shape);
  std::vector<Part> parts;
  const auto add = [&](const std::string& name, const std::string& content, std::size_t reach) {
    parts.push_back({name, content, reach});
  };
  add("config.json", checkpoint.config.dump(1), std::string::npos);
  add("generation_config.json", R"({"do_sample": true, "temperature": 0.7, "top_k": 50,
    "top_p": 0.9, "repetition_penalty": 1.1, "bos_token_id": 0, "eos_token_id": [1, 2]})",
      std::string::npos);
  add("tokenizer.json", checkpoint.tokenizer, std::string::npos);
  add("model.safetensors.index.json", checkpoint.index.dump(1), std::string::npos);
  for (int shard = 0; shard < 2; ++shard) {
    const std::string bytes = checkpoint.shard_bytes(shard);
    add(checkpoint.shard_name(shard), bytes, bytes.rfind("]}}") + 3);
  }
  for (const Part& part : parts) checkpoint.write_file(part.name, part.content);

  const std::int64_t runs = from_environment("ENGINE_FUZZ_RUNS", kSanitized ? 60 : 500);
  const std::int64_t seed = from_environment("ENGINE_FUZZ_SEED", 1);
  Command command = generate_command(checkpoint.path(),
                                     {"-p", "the one", "-n", "3", "--seed", "1", "--threads", "2"});
  command.timeout_s = 20;
  if (!kSanitized) command.address_space = std::uint64_t{4} << 30;
  REQUIRE(run(command).exit_code == 0);
  std::int64_t refused = 0;
  for (std::int64_t i = 0; i < runs; ++i) {
    Random random(static_cast<std::uint64_t>(seed) * 1000003u + static_cast<std::uint64_t>(i));
    const Part& part =
        parts[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(parts.size())))];
    std::string content = part.content;
    for (std::int64_t n = random.below(3); n >= 0; --n) {
      content = mutate(std::move(content), part.reach, random);
    }
    checkpoint.write_file(part.name, content);
    const Result result = run(command);
    CAPTURE(seed);
    CAPTURE(i);
    CAPTURE(part.name);
    CHECK_MESSAGE(result.signal == 0, result.describe());
    CHECK_MESSAGE(!result.timed_out, result.describe());
    CHECK_MESSAGE(is_documented(result.exit_code), result.describe());
    CHECK_MESSAGE(result.exit_code != 6, result.describe());
    CHECK_MESSAGE(result.error_lines() == (result.exit_code == 0 ? 0 : 1), result.describe());
    refused += result.exit_code == 0 ? 0 : 1;
    checkpoint.write_file(part.name, part.content);
  }
  // Mutations that say something: some are refused, some are harmless.
  CHECK(refused > runs / 4);
  CHECK(refused < runs);
  CHECK(run(command).exit_code == 0);
}

}  // namespace
}  // namespace engine::test
