// A small trained LLaMA, and the same as a mixture of experts, against the greedy text of an
// independent fp32 implementation. The data is optional: see tests/support/testdata.h.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/io/tokenizer.h"
#include "engine/runtime/generate.h"
#include "engine/runtime/model_loader.h"
#include "engine/runtime/session.h"
#include "tests/model/forward.h"
#include "tests/model/goldens.h"
#include "tests/support/backends.h"
#include "tests/support/routing.h"
#include "tests/support/testdata.h"

namespace engine::test {
namespace {

struct Checkpoint {
  const char* directory;
  const char* golden;
  const char* logits;
};

constexpr Checkpoint kF32 = {"models/stories260K/llama-f32", "models/stories260K/golden_f32.json",
                             "models/stories260K/golden_f32_prompt0_logits.f32"};
constexpr Checkpoint kBF16 = {"models/stories260K/llama-bf16",
                              "models/stories260K/golden_bf16weights.json",
                              "models/stories260K/golden_bf16weights_prompt0_logits.f32"};

// The same weights cut into 8 half experts in 4 pairs that share a router row: with both of a pair
// chosen, each at weight one half, the sum is the dense feed-forward. Wrong routing breaks the
// text.
constexpr Checkpoint kMixtral = {"models/stories260K/mixtral-paired8-bf16", kBF16.golden,
                                 kBF16.logits};

nlohmann::json read_json(const std::filesystem::path& path) {
  std::ifstream in(path);
  return nlohmann::json::parse(in);
}

std::vector<float> read_floats(const std::filesystem::path& path) {
  std::vector<float> values(std::filesystem::file_size(path) / sizeof(float));
  std::ifstream in(path, std::ios::binary);
  in.read(reinterpret_cast<char*>(values.data()),
          static_cast<std::streamsize>(values.size() * sizeof(float)));
  return values;
}

// Every prompt of the golden, greedily, EOS ignored: the ids must be the same.
void check_greedy(const Checkpoint& checkpoint) {
  const auto directory = testdata(checkpoint.directory);
  if (!directory) return;
  const nlohmann::json golden = read_json(*testdata(checkpoint.golden));
  const auto tokenizer = load_tokenizer(*directory);
  REQUIRE(golden.at("prompts").size() == 8);
  for (const auto& backend : backends()) {
    ModelLoader loader(*directory);
    const Decoder& decoder = loader.bind(DType::kF32);
    loader.load(*backend, nullptr);
    Session session(*backend, decoder, {.dtype = DType::kF32, .max_context = 512});
    for (const nlohmann::json& entry : golden.at("prompts")) {
      const auto text = entry.at("prompt").get<std::string>();
      const auto expected = entry.at("greedy_ids").get<std::vector<std::int32_t>>();
      CAPTURE(to_string(backend->device()));
      CAPTURE(text);
      const std::vector<std::int32_t> prompt = tokenizer->encode(text, true);
      CHECK(prompt == entry.at("prompt_ids").get<std::vector<std::int32_t>>());
      session.reset();
      session.set_sampling({.temperature = 0});
      const Generation generation = generate(
          session, tokenizer.get(), prompt,
          {.max_new_tokens = static_cast<std::int64_t>(expected.size()), .eos_ids = {}, .stop = {}},
          [](std::string_view) {});
      CHECK(generation.ids == expected);
      CHECK(generation.stop_reason == StopReason::kLength);
    }
  }
}

TEST_CASE("stories260K f32: the greedy ids of the reference, all prompts") { check_greedy(kF32); }

TEST_CASE("stories260K bf16 weights at f32: the greedy ids of the reference, all prompts") {
  check_greedy(kBF16);
}

TEST_CASE("stories260K as a mixture at f32: the greedy ids of the reference, all prompts") {
  check_greedy(kMixtral);
}

// Prompt 0 of a golden with its greedy continuation: row i of the logits predicts greedy[i].
struct Forced {
  std::vector<std::int32_t> ids, greedy;
  std::vector<double> margins;
  std::vector<float> logits;
};

Forced load_forced(const Checkpoint& checkpoint) {
  const nlohmann::json golden = read_json(*testdata(checkpoint.golden)).at("prompts").at(0);
  Forced forced = {.ids = golden.at("prompt_ids"),
                   .greedy = golden.at("greedy_ids"),
                   .margins = golden.at("top1_minus_top2"),
                   .logits = read_floats(*testdata(checkpoint.logits))};
  REQUIRE(forced.ids.size() == 1);
  forced.ids.insert(forced.ids.end(), forced.greedy.begin(), forced.greedy.end() - 1);
  return forced;
}

// Rows whose largest logit is not the token that follows, of those with at least this margin.
std::size_t disagreements(const Forced& forced, std::span<const float> logits, double margin) {
  const std::size_t vocab = logits.size() / forced.greedy.size();
  std::size_t wrong = 0;
  for (std::size_t row = 0; row < forced.greedy.size(); ++row) {
    if (forced.margins[row] < margin) continue;
    const auto part = logits.subspan(row * vocab, vocab);
    const auto top = std::max_element(part.begin(), part.end()) - part.begin();
    wrong += top != forced.greedy[row] ? 1 : 0;
  }
  return wrong;
}

// Teacher-forced logits of a checkpoint in bf16, as a whole and token by token.
void check_bf16(const Checkpoint& checkpoint) {
  const auto directory = testdata(checkpoint.directory);
  if (!directory) return;
  const Forced forced = load_forced(checkpoint);
  const auto sure = std::count_if(forced.margins.begin(), forced.margins.end(),
                                  [](double margin) { return margin >= 0.25; });
  REQUIRE(static_cast<std::size_t>(sure) > forced.greedy.size() / 2);
  for (const auto& backend : backends()) {
    ModelLoader loader(*directory);
    const Decoder& decoder = loader.bind(DType::kBF16);
    loader.load(*backend, nullptr);
    for (const std::int64_t chunk : {512, 1}) {
      Session session(*backend, decoder,
                      {.dtype = DType::kBF16, .max_context = 512, .prefill_chunk = chunk});
      std::vector<float> logits;
      session.prefill(forced.ids, false, [&](std::int64_t, std::span<const float> rows) {
        logits.insert(logits.end(), rows.begin(), rows.end());
      });
      CAPTURE(to_string(backend->device()));
      CAPTURE(chunk);
      CHECK(nmse(logits, forced.logits) <= 2e-4);
      CHECK(disagreements(forced, logits, 0.25) == 0);
    }
  }
}

TEST_CASE("stories260K in bf16: teacher-forced logits are close and agree where it matters") {
  check_bf16(kBF16);
}

TEST_CASE("stories260K as a mixture in bf16: close logits that agree where it matters") {
  check_bf16(kMixtral);
}

TEST_CASE("stories260K as a mixture: broken routing fails the comparison that routing passes") {
  const auto directory = testdata(kMixtral.directory);
  if (!directory) return;
  const Forced forced = load_forced(kMixtral);
  for (const auto& backend : backends()) {
    CAPTURE(to_string(backend->device()));
    ModelLoader loader(*directory);
    const Decoder& decoder = loader.bind(DType::kF32);
    loader.load(*backend, nullptr);
    const auto run = [&](Ops& ops, std::int64_t step) {
      return forward_logits(*backend, ops, decoder, forced.ids, DType::kF32, step);
    };
    for (const std::int64_t step : {std::int64_t{256}, std::int64_t{1}}) {
      CAPTURE(step);
      RouteRecorder sound(*backend, decoder.config().layers);
      const std::vector<float> right = run(sound, step);
      CHECK(nmse(right, forced.logits) <= 1e-8);
      CHECK(disagreements(forced, right, 0) == 0);
      WrongExperts shifted(*backend);
      NoRenormalising plain(*backend);
      for (Ops* broken : {static_cast<Ops*>(&shifted), static_cast<Ops*>(&plain)}) {
        const std::vector<float> wrong = run(*broken, step);
        CHECK(nmse(wrong, forced.logits) > 2e-4);
        CHECK(disagreements(forced, wrong, 0) > 0);
      }
    }
  }
}

}  // namespace
}  // namespace engine::test
