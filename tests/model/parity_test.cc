// Logits against transformers' float32, on every backend, in every compute type, whatever way the
// prompt is cut into steps.
#include <doctest/doctest.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "engine/runtime/model_loader.h"
#include "engine/runtime/session.h"
#include "tests/model/goldens.h"
#include "tests/support/backends.h"

namespace engine::test {
namespace {

// The acceptance limits. A correct engine in f32 is at transformers' own distance from float64,
// about 1e-13; in 16 bits, at the rounding of weights and activations (2⁻⁹ and 2⁻¹² relative, over
// some tens of roundings), about 1e-4 and 1e-6. The manifest has the figure of each case.
double nmse_limit(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 1e-10;
    case DType::kF16:
      return 1e-4;
    default:
      return 2e-3;
  }
}

// Everything of one checkpoint on one backend.
struct Loaded {
  ModelLoader loader;
  const Decoder* decoder;

  Loaded(Backend& backend, const Golden& golden, DType dtype)
      : loader(golden.directory), decoder(&loader.bind(dtype)) {
    loader.load(backend, nullptr);
  }
};

// The logits of the golden's rows, the prompt fed in steps of at most `step` tokens.
std::vector<float> run_logits(Backend& backend, const Decoder& decoder, const Golden& golden,
                              DType dtype, std::int64_t step) {
  const auto size = static_cast<std::int64_t>(golden.ids.size());
  Session session(backend, decoder, {.dtype = dtype, .max_context = size, .prefill_chunk = step});
  std::vector<float> all;
  session.prefill(golden.ids, false, [&](std::int64_t first, std::span<const float> rows) {
    REQUIRE(first * golden.vocab == static_cast<std::int64_t>(all.size()));
    all.insert(all.end(), rows.begin(), rows.end());
  });
  return golden.stored_rows(all);
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_CASE("logits of every dense golden checkpoint are those of transformers") {
  for (const auto& backend : backends()) {
    for (const Golden& golden : load_goldens()) {
      if (golden.is_mixture()) continue;  // mixtral_test.cc
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        const Loaded loaded(*backend, golden, dtype);
        // Whole, in uneven chunks (the last one shorter), and token by token.
        for (const std::int64_t step : {std::int64_t{2048}, std::int64_t{7}, std::int64_t{1}}) {
          CAPTURE(to_string(backend->device()));
          CAPTURE(golden.name);
          CAPTURE(std::string(dtype_name(dtype)));
          CAPTURE(step);
          const std::vector<float> logits =
              run_logits(*backend, *loaded.decoder, golden, dtype, step);
          // NaN fails: the comparison is then false.
          CHECK(nmse(logits, golden.logits) <= nmse_limit(dtype));
        }
      }
    }
  }
}

TEST_CASE("greedy decoding in f32 gives transformers' ids, eager and replayed") {
  int checked = 0;
  for (const auto& backend : backends()) {
    for (const Golden& golden : load_goldens()) {
      if (golden.greedy.empty()) continue;
      const Loaded loaded(*backend, golden, DType::kF32);
      const auto count = static_cast<std::int64_t>(golden.greedy.size());
      for (const bool replay : {false, true}) {
        Session session(*backend, *loaded.decoder,
                        {.dtype = DType::kF32,
                         .max_context = static_cast<std::int64_t>(golden.ids.size()) + count,
                         .replay = replay});
        session.set_sampling({.temperature = 0});
        session.prefill(golden.ids, true);
        std::vector<std::int32_t> ids = {session.next()};
        for (std::int64_t i = 1; i < count; ++i) {
          session.decode();
          ids.push_back(session.next());
        }
        CAPTURE(to_string(backend->device()));
        CAPTURE(golden.name);
        CAPTURE(replay);
        CHECK(ids == golden.greedy);
        ++checked;
      }
    }
  }
  CHECK((checked > 0 || backends().empty()));
}

TEST_CASE("a wrong rotary base is far outside the limit") {
  // The control: the same weights with another theta must fail the comparison above.
  const std::vector<Golden> goldens = load_goldens();
  const auto golden = std::find_if(goldens.begin(), goldens.end(),
                                   [](const Golden& g) { return g.name == "rope_theta_v5"; });
  REQUIRE(golden != goldens.end());
  Golden changed = *golden;
  changed.directory = std::filesystem::temp_directory_path() / concat("engine_parity_", ::getpid());
  std::filesystem::copy(golden->directory, changed.directory);
  std::string config = read_text(golden->directory / "config.json");
  const std::size_t at = config.find("500000");
  REQUIRE(at != std::string::npos);
  config.replace(at, 6, "400000");
  std::ofstream(changed.directory / "config.json") << config;
  for (const auto& backend : backends()) {
    const Loaded loaded(*backend, changed, DType::kF32);
    const std::vector<float> logits =
        run_logits(*backend, *loaded.decoder, changed, DType::kF32, 2048);
    CHECK(nmse(logits, golden->logits) > 1e-6);
  }
  std::filesystem::remove_all(changed.directory);
}

}  // namespace
}  // namespace engine::test
