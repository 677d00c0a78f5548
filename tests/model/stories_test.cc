// A small trained LLaMA against the greedy text of an independent fp32 implementation. The data is
// optional: see tests/support/testdata.h.
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
#include "tests/model/goldens.h"
#include "tests/support/backends.h"
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

TEST_CASE("stories260K in bf16: teacher-forced logits are close and agree where it matters") {
  const auto directory = testdata(kBF16.directory);
  if (!directory) return;
  const nlohmann::json golden = read_json(*testdata(kBF16.golden)).at("prompts").at(0);
  const std::vector<float> expected = read_floats(*testdata(kBF16.logits));
  const auto greedy = golden.at("greedy_ids").get<std::vector<std::int32_t>>();
  const auto margins = golden.at("top1_minus_top2").get<std::vector<double>>();
  auto ids = golden.at("prompt_ids").get<std::vector<std::int32_t>>();
  REQUIRE(ids.size() == 1);
  ids.insert(ids.end(), greedy.begin(), greedy.end() - 1);  // row i predicts greedy[i]

  for (const auto& backend : backends()) {
    ModelLoader loader(*directory);
    const Decoder& decoder = loader.bind(DType::kBF16);
    loader.load(*backend, nullptr);
    for (const std::int64_t chunk : {512, 1}) {
      Session session(*backend, decoder,
                      {.dtype = DType::kBF16, .max_context = 512, .prefill_chunk = chunk});
      std::vector<float> logits;
      session.prefill(ids, false, [&](std::int64_t, std::span<const float> rows) {
        logits.insert(logits.end(), rows.begin(), rows.end());
      });
      CAPTURE(to_string(backend->device()));
      CAPTURE(chunk);
      CHECK(nmse(logits, expected) <= 2e-4);
      const auto vocab = static_cast<std::size_t>(session.vocab());
      std::size_t compared = 0;
      for (std::size_t row = 0; row < greedy.size(); ++row) {
        if (margins[row] < 0.25) continue;
        const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row * vocab);
        const auto top = std::max_element(begin, begin + static_cast<std::ptrdiff_t>(vocab));
        CHECK(top - begin == greedy[row]);
        ++compared;
      }
      CHECK(compared > greedy.size() / 2);
    }
  }
}

}  // namespace
}  // namespace engine::test
