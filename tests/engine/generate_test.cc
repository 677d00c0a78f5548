// The parts of a generation that need no program: stop strings, the hash of ids, the choice of
// sampling parameters, .npy files, perplexity windows and what a run prints about itself.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/cli/options.h"
#include "engine/cli/prompt.h"
#include "engine/cli/report.h"
#include "engine/io/npy.h"
#include "engine/runtime/generate.h"
#include "engine/runtime/model_loader.h"
#include "engine/runtime/perplexity.h"
#include "engine/runtime/sampling_options.h"
#include "kernels/backend.h"
#include "tests/model/goldens.h"
#include "tests/support/npy_reader.h"
#include "tests/support/outcome.h"
#include "tests/support/temp_dir.h"

namespace engine::test {
namespace {

using Ids = std::vector<std::int32_t>;

TEST_CASE("StopFilter shows nothing that may belong to a stop string") {
  StopFilter filter({"END"});
  CHECK(filter.push("abE") == "ab");
  CHECK(filter.push("N") == "");
  CHECK(filter.push("x") == "ENx");
  CHECK(filter.push("E") == "");
  CHECK(filter.push("EN") == "E");
  CHECK_FALSE(filter.matched());
  CHECK(filter.push("D and more") == "");
  CHECK(filter.matched());
  CHECK(filter.push("more") == "");
  CHECK(filter.flush() == "");
}

TEST_CASE("StopFilter flushes what it held back in vain") {
  StopFilter filter({"the end"});
  CHECK(filter.push("by the en") == "by ");
  CHECK(filter.flush() == "the en");
  CHECK(filter.flush() == "");
  StopFilter none({});
  CHECK(none.push("text") == "text");
  CHECK(none.flush() == "");
}

TEST_CASE("StopFilter ends before the first of several stop strings") {
  StopFilter nested({"abcd", "bc"});
  CHECK(nested.push("xabc") == "xa");
  CHECK(nested.matched());
  StopFilter same({"aab", "ab"});
  CHECK(same.push("aa") == "");
  CHECK(same.push("a") == "a");  // "aa" still begins "aab"
  CHECK(same.push("b!") == "");
  CHECK(same.matched());
  StopFilter repeated({"aa"});
  CHECK(repeated.push("ba") == "b");
  CHECK(repeated.push("a") == "");
  CHECK(repeated.matched());
}

TEST_CASE("StopFilter cuts any text anyhow: the same as a search in the whole") {
  std::uint32_t random = 1;
  const auto below = [&](std::uint32_t n) {
    random = random * 1664525u + 1013904223u;
    return (random >> 16) % n;
  };
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (std::uint32_t i = below(20); i > 0; --i) text += static_cast<char>('a' + below(2));
    std::vector<std::string> stops(1 + below(3));
    for (std::string& stop : stops) {
      for (std::uint32_t i = 1 + below(4); i > 0; --i) stop += static_cast<char>('a' + below(2));
    }
    StopFilter filter(stops);
    std::string shown;
    std::size_t at = 0;
    bool early = false;  // a prefix of the text that holds a stop string was not recognised
    while (at < text.size()) {
      const std::size_t size = std::min<std::size_t>(1 + below(4), text.size() - at);
      shown += filter.push(text.substr(at, size));
      at += size;
      const bool there = std::any_of(stops.begin(), stops.end(), [&](const std::string& stop) {
        return text.substr(0, at).find(stop) != std::string::npos;
      });
      early = early || there != filter.matched();
      if (there) break;
    }
    shown += filter.flush();
    // Up to where it stopped reading, the text before the first stop string, or all of it.
    std::size_t end = at;
    for (const std::string& stop : stops) end = std::min(end, text.substr(0, at).find(stop));
    CAPTURE(text);
    CHECK_FALSE(early);
    CHECK(shown == text.substr(0, end));
  }
}

TEST_CASE("StopFilter refuses an empty stop string") {
  CHECK(outcome_of([] { StopFilter({"a", ""}); }).is(ErrorKind::kUsage));
}

TEST_CASE("fnv1a_64 hashes ids as little-endian bytes") {
  // Published vectors of FNV-1a: "", "foob" and, of eight bytes, the ids' own order.
  CHECK(fnv1a_64(Ids{}) == 0xcbf29ce484222325u);
  CHECK(fnv1a_64(Ids{0x626f6f66}) == 0xdd120e790c2512afu);
  CHECK(fnv1a_64(Ids{1, 2}) != fnv1a_64(Ids{2, 1}));
  CHECK(fnv1a_64(Ids{-1}) == fnv1a_64(Ids{std::int32_t(0xffffffffu)}));
}

TEST_CASE("choose_sampling takes flags before the file before defaults") {
  const SamplingChoice defaults = choose_sampling({}, {});
  CHECK(defaults.params.temperature == 0.8f);
  CHECK(defaults.params.top_k == 200);
  CHECK(defaults.params.top_p == 1.0f);
  CHECK(defaults.params.min_p == 0.0f);
  CHECK(defaults.params.repetition_penalty == 1.0f);
  CHECK(defaults.description ==
        "temperature 0.8 (default), top-k 200 (default), top-p 1 (default), min-p 0 (default), "
        "repetition-penalty 1 (default)");

  GenerationConfig file;
  file.temperature = 0.6;
  file.top_k = 50;
  file.repetition_penalty = 1.1;
  SamplingFlags flags;
  flags.top_k = 0;
  flags.min_p = 0.05;
  const SamplingChoice mixed = choose_sampling(flags, file);
  CHECK(mixed.params.temperature == 0.6f);
  CHECK(mixed.params.top_k == 0);
  CHECK(mixed.params.min_p == 0.05f);
  CHECK(mixed.params.repetition_penalty == 1.1f);
  CHECK(mixed.description ==
        "temperature 0.6 (generation_config.json), top-k 0 (flag), top-p 1 (default), min-p 0.05 "
        "(flag), repetition-penalty 1.1 (generation_config.json)");
}

TEST_CASE("choose_sampling is greedy where do_sample is false and no flag says otherwise") {
  GenerationConfig file;
  file.do_sample = false;
  file.temperature = 0.7;
  CHECK(choose_sampling({}, file).params.temperature == 0.0f);
  SamplingFlags flags;
  flags.temperature = 0.5;
  CHECK(choose_sampling(flags, file).params.temperature == 0.5f);
  file.do_sample = true;
  CHECK(choose_sampling({}, file).params.temperature == 0.7f);
  file.do_sample.reset();
  CHECK(choose_sampling({}, file).params.temperature == 0.7f);
}

TEST_CASE("choose_sampling keeps a tiny temperature from dividing by zero") {
  SamplingFlags flags;
  flags.temperature = 1e-30;
  const float temperature = choose_sampling(flags, {}).params.temperature;
  CHECK(temperature > 0.0f);
  CHECK(std::isfinite(1.0f / temperature));
}

TEST_CASE("choose_sampling refuses what is out of range, by flag and by field") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  struct Case {
    std::optional<double> SamplingFlags::*flag;
    std::optional<double> GenerationConfig::*field;
    std::vector<double> bad, good;
    const char* name;
  };
  const Case cases[] = {
      {&SamplingFlags::temperature,
       &GenerationConfig::temperature,
       {-1e-9, nan, infinity, 1e300},
       {0, 1e6},
       "temperature"},
      {&SamplingFlags::top_p, &GenerationConfig::top_p, {0, -0.5, 1.0001, nan}, {1e-9, 1}, "top-p"},
      {&SamplingFlags::min_p, &GenerationConfig::min_p, {-1e-9, 1.0001, nan}, {0, 1}, "min-p"},
      {&SamplingFlags::repetition_penalty,
       &GenerationConfig::repetition_penalty,
       {0, -1, nan, infinity, 1e300},
       {1e-3, 1e3},
       "repetition-penalty"},
  };
  for (const Case& c : cases) {
    CAPTURE(std::string(c.name));
    for (const double value : c.bad) {
      CAPTURE(value);
      SamplingFlags flags;
      flags.*c.flag = value;
      const Outcome by_flag = outcome_of([&] { choose_sampling(flags, {}); });
      CHECK(by_flag.is(ErrorKind::kUsage));
      CHECK(by_flag.says("--" + std::string(c.name)));
      GenerationConfig file;
      file.*c.field = value;
      const Outcome by_file = outcome_of([&] { choose_sampling({}, file); });
      CHECK(by_file.is(ErrorKind::kModel));
      CHECK(by_file.says("generation_config.json"));
    }
    for (const double value : c.good) {
      SamplingFlags flags;
      flags.*c.flag = value;
      CHECK(outcome_of([&] { choose_sampling(flags, {}); }).ok());
    }
  }
  SamplingFlags flags;
  flags.top_k = -1;
  CHECK(outcome_of([&] { choose_sampling(flags, {}); }).is(ErrorKind::kUsage));
  flags.top_k = std::int64_t{1} << 31;
  CHECK(outcome_of([&] { choose_sampling(flags, {}); }).is(ErrorKind::kUsage));
}

TEST_CASE("NpyWriter writes what a reader of the format finds, for any width of the shape") {
  const TempDir directory;
  const std::filesystem::path path = directory.path() / "a.npy";
  for (const std::int64_t rows : {1, 9, 10, 100, 12345}) {
    for (const std::int64_t columns : {1, 3, 128}) {
      std::vector<float> values(static_cast<std::size_t>(rows * columns));
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.5f;
      NpyWriter writer(path, rows, columns);
      const std::size_t half =
          static_cast<std::size_t>(rows / 2) * static_cast<std::size_t>(columns);
      writer.append(std::span(values).first(half));
      writer.append(std::span(values).subspan(half));
      writer.close();
      const NpyMatrix matrix = read_npy(path);
      CHECK(matrix.rows == rows);
      CHECK(matrix.columns == columns);
      CHECK(matrix.values == values);
    }
  }
}

TEST_CASE("NpyWriter leaves nothing behind where its file can't take the name") {
  const TempDir directory;
  const std::filesystem::path path = directory.path() / "taken";
  std::filesystem::create_directory(path);
  const std::vector<float> row(4, 1.0f);
  NpyWriter writer(path, 1, 4);
  writer.append(row);
  const Outcome refused = outcome_of([&] { writer.close(); });
  CHECK(refused.is(ErrorKind::kIo));
  CHECK(refused.says(path.string()));
  CHECK(std::filesystem::is_directory(path));
  std::size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory.path())) {
    ++entries;
  }
  CHECK(entries == 1);
}

TEST_CASE("NpyWriter makes the file whole or not at all") {
  const TempDir directory;
  const std::filesystem::path path = directory.path() / "a.npy";
  const std::vector<float> row(4, 1.0f);
  {
    NpyWriter writer(path, 2, 4);
    writer.append(row);
    CHECK_FALSE(std::filesystem::exists(path));
    CHECK(outcome_of([&] { writer.close(); }).is(ErrorKind::kInternal));
    CHECK(outcome_of([&] { writer.append(std::vector<float>(5)); }).is(ErrorKind::kInternal));
  }
  CHECK(std::filesystem::is_empty(directory.path()));
  directory.write("a.npy", "old");
  {
    NpyWriter writer(path, 1, 4);
    writer.append(row);
    CHECK(std::filesystem::file_size(path) == 3);  // replaced by close() alone
    writer.close();
  }
  CHECK(read_npy(path).values == row);
  const Outcome unwritable =
      outcome_of([&] { NpyWriter(directory.path() / "none" / "b.npy", 1, 1); });
  CHECK(unwritable.is(ErrorKind::kIo));
  CHECK(unwritable.says("b.npy"));
  CHECK(outcome_of([&] { NpyWriter(path, std::int64_t{1} << 62, 4); }).error.has_value());
}

// Everything of one golden on the CPU.
struct Loaded {
  std::unique_ptr<Backend> backend = make_backend({}, {});
  ModelLoader loader;
  const Decoder* decoder;

  explicit Loaded(const Golden& golden)
      : loader(golden.directory), decoder(&loader.bind(DType::kF32)) {
    loader.load(*backend, nullptr);
  }
};

const Golden& golden_called(const std::vector<Golden>& all, const std::string& name) {
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Golden& g) { return g.name == name; });
  REQUIRE(found != all.end());
  return *found;
}

TEST_CASE("perplexity of one window is that of the golden logits") {
  const std::vector<Golden> goldens = load_goldens();
  const Golden& golden = golden_called(goldens, "gqa");
  REQUIRE(golden.rows.size() == golden.ids.size());  // every row is there
  Loaded loaded(golden);
  Session session(*loaded.backend, *loaded.decoder, {.dtype = DType::kF32, .max_context = 64});
  double total = 0;
  for (std::size_t i = 0; i + 1 < golden.ids.size(); ++i) {
    const float* row = golden.logits.data() + i * static_cast<std::size_t>(golden.vocab);
    double sum = 0;
    for (std::int64_t v = 0; v < golden.vocab; ++v) sum += std::exp(static_cast<double>(row[v]));
    total += std::log(sum) - static_cast<double>(row[golden.ids[i + 1]]);
  }
  const auto count = static_cast<std::int64_t>(golden.ids.size());

  // Without BOS the first token has no prediction; with it (the golden's first token as BOS), the
  // rest of the golden is a text whose every token has one.
  const Perplexity plain = perplexity(session, golden.ids, std::nullopt, nullptr);
  CHECK(plain.tokens == count - 1);
  CHECK(plain.mean_nll == doctest::Approx(total / static_cast<double>(count - 1)).epsilon(1e-6));
  CHECK(plain.perplexity == doctest::Approx(std::exp(plain.mean_nll)));
  const Perplexity with_bos =
      perplexity(session, std::span(golden.ids).subspan(1), golden.ids[0], nullptr);
  CHECK(with_bos.tokens == count - 1);
  CHECK(with_bos.mean_nll == doctest::Approx(plain.mean_nll).epsilon(1e-6));
}

TEST_CASE("perplexity scores each token once whatever the window") {
  const std::vector<Golden> goldens = load_goldens();
  const Golden& golden = golden_called(goldens, "gqa");
  Loaded loaded(golden);
  const auto count = static_cast<std::int64_t>(golden.ids.size());
  for (std::int64_t window = 1; window <= count + 2; ++window) {
    Session session(*loaded.backend, *loaded.decoder,
                    {.dtype = DType::kF32, .max_context = window});
    for (const bool bos : {false, true}) {
      CAPTURE(window);
      CAPTURE(bos);
      std::vector<std::int64_t> progress;
      const Perplexity result =
          perplexity(session, golden.ids, bos ? std::optional<std::int32_t>(1) : std::nullopt,
                     [&](std::int64_t tokens) { progress.push_back(tokens); });
      CHECK(result.tokens == count - (bos ? 0 : 1));
      REQUIRE_FALSE(progress.empty());
      CHECK(progress.back() == result.tokens);
      CHECK(std::is_sorted(progress.begin(), progress.end()));
      // The first window is full; each later one brings its unseen half.
      const std::int64_t first = std::min(window, result.tokens);
      CHECK(progress.front() == first);
      const std::int64_t stride = std::max<std::int64_t>(window / 2, 1);
      const std::int64_t windows = 1 + (result.tokens - first + stride - 1) / stride;
      CHECK(static_cast<std::int64_t>(progress.size()) == windows);
    }
  }
}

TEST_CASE("perplexity needs a token to score") {
  const std::vector<Golden> goldens = load_goldens();
  Loaded loaded(golden_called(goldens, "gqa"));
  Session session(*loaded.backend, *loaded.decoder, {.dtype = DType::kF32, .max_context = 8});
  CHECK(outcome_of([&] { perplexity(session, Ids{}, 1, nullptr); }).is(ErrorKind::kUsage));
  CHECK(outcome_of([&] {
          perplexity(session, Ids{5}, std::nullopt, nullptr);
        }).is(ErrorKind::kUsage));
  CHECK(perplexity(session, Ids{5}, 1, nullptr).tokens == 1);
}

TEST_CASE("negative_log_likelihood is exact where exp would overflow and NaN for infinite logits") {
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(negative_log_likelihood(std::vector<float>{0, 0}, 1) == doctest::Approx(std::log(2.0)));
  CHECK(negative_log_likelihood(std::vector<float>{1e30f, 0}, 0) == doctest::Approx(0.0));
  CHECK(negative_log_likelihood(std::vector<float>{5000, 4000}, 1) == doctest::Approx(1000.0));
  for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    CHECK(std::isnan(negative_log_likelihood(std::vector<float>{1, bad, 2}, 0)));
    CHECK(std::isnan(negative_log_likelihood(std::vector<float>{1, bad, 2}, 1)));
  }
}

TEST_CASE("generate counts, times and stops by what it drew") {
  const std::vector<Golden> goldens = load_goldens();
  const Golden& golden = golden_called(goldens, "gqa");
  Loaded loaded(golden);
  const auto size = static_cast<std::int64_t>(golden.ids.size());
  Session session(*loaded.backend, *loaded.decoder,
                  {.dtype = DType::kF32, .max_context = size + 5});
  const auto run = [&](GenerateOptions options, std::string* shown = nullptr) {
    session.reset();
    session.set_sampling({.temperature = 0});
    return generate(session, nullptr, golden.ids, options, [&](std::string_view text) {
      if (shown != nullptr) *shown += text;
    });
  };
  std::string shown;
  const Generation all = run({.max_new_tokens = 3, .eos_ids = {}, .stop = {}}, &shown);
  CHECK(all.ids == Ids(golden.greedy.begin(), golden.greedy.begin() + 3));
  CHECK(shown == std::to_string(all.ids[0]) + " " + std::to_string(all.ids[1]) + " " +
                     std::to_string(all.ids[2]));
  CHECK(all.text.empty());
  CHECK(all.stop_reason == StopReason::kLength);
  CHECK(all.prefill_s > 0);
  CHECK(all.tokens_per_s > 0);
  CHECK(all.decode_gb_per_s > 0);

  const Generation full = run({.max_new_tokens = 100, .eos_ids = {}, .stop = {}});
  CHECK(full.ids.size() == 6);  // five places and the last token, which needs none
  CHECK(full.stop_reason == StopReason::kLength);

  for (const int lookahead : {0, 1, 2}) {
    const Generation eos = run(
        {.max_new_tokens = 6, .eos_ids = {golden.greedy[2]}, .stop = {}, .lookahead = lookahead});
    CHECK(eos.ids == Ids(golden.greedy.begin(), golden.greedy.begin() + 3));
    CHECK(eos.stop_reason == StopReason::kEos);
  }
  const std::atomic<bool> interrupted{true};
  const Generation none =
      run({.max_new_tokens = 6, .eos_ids = {}, .stop = {}, .interrupt = &interrupted});
  CHECK(none.stop_reason == StopReason::kInterrupted);
  CHECK(none.ids.empty());
  const Generation zero = run({.max_new_tokens = 0, .eos_ids = {}, .stop = {}});
  CHECK(zero.ids.empty());
  CHECK(zero.tokens_per_s == 0);
  CHECK(zero.stop_reason == StopReason::kLength);
}

TEST_CASE("human_bytes has two digits below ten and none after") {
  CHECK(human_bytes(0) == "0.0 kB");
  CHECK(human_bytes(999) == "1.0 kB");
  CHECK(human_bytes(1500) == "1.5 kB");
  CHECK(human_bytes(9949) == "9.9 kB");
  CHECK(human_bytes(9950) == "10 kB");
  CHECK(human_bytes(340'000'000) == "340 MB");
  CHECK(human_bytes(999'499) == "999 kB");
  CHECK(human_bytes(999'500) == "1.0 MB");
  CHECK(human_bytes(13'500'000'000) == "14 GB");
  CHECK(human_bytes(2'000'000'000'000) == "2.0 TB");
  CHECK(human_bytes(std::numeric_limits<std::size_t>::max()) == "18446744 TB");
}

TEST_CASE("parse_texts takes an array of strings alone") {
  CHECK(parse_texts("[]").empty());
  CHECK(parse_texts("[\"a\", \"\\u00e9\"]") == std::vector<std::string>{"a", "é"});
  for (const char* json : {"", "{}", "\"a\"", "[1]", "[null]", "[[\"a\"]]", "[\"a\"", "[\"a\"],",
                           "[\"\xff\"]", "[\"a\" \"b\"]", "nul"}) {
    CAPTURE(std::string(json));
    const Outcome outcome = outcome_of([&] { parse_texts(json); });
    CHECK(outcome.is(ErrorKind::kUsage));
    CHECK(outcome.says("--stdin-json"));
  }
}

TEST_CASE("parse_prompt_tokens takes what ids_json prints without its brackets") {
  CHECK(parse_prompt_tokens("0") == Ids{0});
  CHECK(parse_prompt_tokens("1,403,2147483647") == Ids{1, 403, 2147483647});
  CHECK(ids_json(Ids{1, 403}) == "[1,403]\n");
  CHECK(ids_json(std::vector<Ids>{{}, {7}}) == "[[],[7]]\n");
  for (const char* list : {"", " ", "1,", ",1", "-1", "1, 2", "2147483648", "1.5", "x"}) {
    CAPTURE(std::string(list));
    CHECK(outcome_of([&] { parse_prompt_tokens(list); }).is(ErrorKind::kUsage));
  }
}

TEST_CASE("eos_ids is the union of the sources, each id once") {
  ModelConfig config;
  config.eos_ids = {7, 2};
  GenerationConfig generation;
  generation.eos_ids = {2, 5};
  CHECK(eos_ids(config, generation, nullptr) == Ids{2, 5, 7});
  CHECK(eos_ids({}, {}, nullptr).empty());
}

TEST_CASE("generation_json survives a directory name that is not UTF-8") {
  RunFacts facts;
  facts.model_dir = "a\xff";
  facts.seed = std::numeric_limits<std::uint64_t>::max();
  facts.sampling.temperature = 0.1f;
  const std::string text = generation_json(facts, Ids{1}, {});
  const nlohmann::json object = nlohmann::json::parse(text);
  CHECK(object.at("seed") == std::numeric_limits<std::uint64_t>::max());
  CHECK(object.at("sampling").at("temperature").dump() == "0.1");
  CHECK(object.at("stop_reason") == "length");
}

TEST_CASE("device_table says why a device is not usable") {
  DeviceInfo cpu = {
      {}, "a processor", {std::size_t{2'000'000'000}, std::size_t{4'000'000'000}}, ""};
  DeviceInfo card = {{DeviceKind::kCuda, 1}, "a card", {}, "too old"};
  const std::string table = device_table({cpu, card}, "");
  CHECK(table.find("cpu      a processor, 2.0 GB free of 4.0 GB\n") == 0);
  CHECK(table.find("cuda:1") != std::string::npos);
  CHECK(table.find("not usable: too old\n") != std::string::npos);
  CHECK(device_table({cpu}, "no driver").ends_with("cuda     none: no driver\n"));
}

}  // namespace
}  // namespace engine::test
