#include "tests/kernels/sample_fixture.h"

#include <numeric>

#include "kernels/cases/cases.h"
#include "kernels/core/philox.h"
#include "tests/support/chi_square.h"

namespace engine::test {
namespace {

struct Setting {
  const char* name;
  SamplingParams params;
};

// Each filter alone, then all together. No two thresholds fall on a probability.
std::vector<Setting> settings() {
  return {
      {"plain", {.temperature = 1.0f, .top_k = 0}},
      {"cold", {.temperature = 0.5f, .top_k = 0}},
      {"hot", {.temperature = 1.7f, .top_k = 0}},
      {"top-k", {.temperature = 1.0f, .top_k = 7}},
      {"top-k past V", {.temperature = 1.0f, .top_k = 1 << 30}},
      {"top-p", {.temperature = 1.0f, .top_p = 0.7f, .top_k = 0}},
      {"min-p", {.temperature = 1.0f, .min_p = 0.05f, .top_k = 0}},
      {"penalty", {.temperature = 1.0f, .repetition_penalty = 1.8f, .top_k = 0}},
      {"reward", {.temperature = 1.0f, .repetition_penalty = 0.6f, .top_k = 0}},
      {"top-k then top-p", {.temperature = 1.3f, .top_p = 0.8f, .top_k = 12}},
      {"all",
       {.temperature = 0.9f,
        .top_p = 0.9f,
        .min_p = 0.02f,
        .repetition_penalty = 1.3f,
        .top_k = 20}},
  };
}

std::vector<std::uint8_t> every_third_seen(const Values& logits) {
  std::vector<std::uint8_t> seen(logits.size());
  for (std::size_t i = 0; i < seen.size(); i += 3) seen[i] = 1;
  return seen;
}

TEST_CASE("sample: the draws of every filter follow the exact distribution") {
  on_every_backend([](Backend& backend) {
    for (const std::int64_t vocabulary : {50, 1000}) {
      const Values logits = random_logits(vocabulary, 71);
      const std::vector<std::uint8_t> seen = every_third_seen(logits);
      for (const Setting& setting : settings()) {
        const int most = vocabulary == 50 ? 20000 : 5000;
        const int count = is_quick_run() ? most / 8 : most;
        std::vector<Draw> draws(static_cast<std::size_t>(count), {setting.params, 0});
        for (int i = 0; i < count; ++i) {
          draws[static_cast<std::size_t>(i)].params.seed = 1234;
          draws[static_cast<std::size_t>(i)].position = i;
        }
        std::vector<std::int64_t> counts(logits.size());
        for (const SampledToken& token : draw(backend, logits, seen, draws).tokens) {
          ++counts.at(static_cast<std::size_t>(token.id));
        }
        const Values exact = reference::sample_distribution(logits, seen, setting.params);
        const ChiSquare test = chi_square(counts, exact);
        // Seeds are fixed, so the result is too. A right sampler falls below once in 10^4 seeds.
        CHECK_MESSAGE(test.outside == 0, setting.name, ": drew filtered ids ", test.outside,
                      " times, V ", vocabulary);
        CHECK_MESSAGE(test.p_value > 1e-4, setting.name, ": chi-square ", test.statistic, " over ",
                      test.cells, " cells, p ", test.p_value, ", V ", vocabulary);
      }
    }
  });
}

TEST_CASE("sample: draws by different seeds at one position follow the distribution") {
  on_every_backend([](Backend& backend) {
    const Values logits = random_logits(50, 72);
    std::vector<Draw> draws(20000);
    for (std::size_t i = 0; i < draws.size(); ++i) {
      draws[i].params = {.seed = i, .temperature = 1.0f, .top_k = 0};
      draws[i].position = 5;
    }
    std::vector<std::int64_t> counts(logits.size());
    for (const SampledToken& token : draw(backend, logits, unseen(logits), draws).tokens) {
      ++counts.at(static_cast<std::size_t>(token.id));
    }
    const ChiSquare test =
        chi_square(counts, reference::sample_distribution(logits, unseen(logits), draws[0].params));
    CHECK_MESSAGE(test.p_value > 1e-4, "chi-square ", test.statistic, ", p ", test.p_value);
  });
}

// Compares with the oracle's id wherever fp32 can tell: scores ln p − ln e of magnitude up to 30
// are off by a few u32 · 30 each, 10^-5 in all; so is any threshold. Returns how many were
// compared.
int check_exact_tokens(const char* what, const Values& logits,
                       const std::vector<std::uint8_t>& seen, const std::vector<Draw>& draws,
                       const Drawn& drawn, std::int32_t advance) {
  constexpr double kClose = 1e-5;
  int compared = 0, wrong = 0;
  Values strict, lenient;
  SamplingParams held{.top_k = -1};
  for (std::size_t i = 0; i < draws.size(); ++i) {
    const SamplingParams& p = draws[i].params;
    if (p.temperature != held.temperature || p.top_k != held.top_k || p.top_p != held.top_p ||
        p.min_p != held.min_p || p.repetition_penalty != held.repetition_penalty) {
      strict = reference::sample_distribution(logits, seen, p, -kClose);
      lenient = reference::sample_distribution(logits, seen, p, kClose);
      held = p;
    }
    const auto position = static_cast<std::uint32_t>(draws[i].position + advance);
    const reference::ExactToken a = reference::sample_token(strict, p.seed, position);
    const reference::ExactToken b = reference::sample_token(lenient, p.seed, position);
    if (a.id != b.id || b.lead < kClose) continue;
    ++compared;
    wrong += drawn.tokens[i].id != a.id;
  }
  CHECK_MESSAGE(wrong == 0, what, ": ", wrong, " of ", compared, " ids differ from the oracle's");
  return compared;
}

TEST_CASE("sample: the exact id of thousands of seeds and positions") {
  on_every_backend([](Backend& backend) {
    for (const std::int64_t vocabulary : {1, 2, 3, 50, 997}) {
      const Values logits = random_logits(vocabulary, 73);
      const std::vector<std::uint8_t> seen = every_third_seen(logits);
      for (const Setting& setting : settings()) {
        Random random(74);
        std::vector<Draw> draws(400, {setting.params, 0});
        for (Draw& d : draws) {
          d.params.seed = random.bits();
          d.position = static_cast<std::int32_t>(random.below(1 << 30));
        }
        const Drawn drawn = draw(backend, logits, seen, draws);
        const int compared = check_exact_tokens(setting.name, logits, seen, draws, drawn, 1);
        CHECK(compared >= 390);
      }
    }
  });
}

TEST_CASE("sample: the exact id over large vocabularies") {
  on_every_backend([](Backend& backend) {
    for (const std::int64_t vocabulary : {32000, 128256}) {
      for (const double spread : {2.0, 0.05}) {  // 0.05: nearly flat, so that the tail wins
        const Values logits = random_logits(vocabulary, 75, spread);
        for (const Setting& setting : settings()) {
          std::vector<Draw> draws(16, {setting.params, 0});
          for (std::size_t i = 0; i < draws.size(); ++i) {
            draws[i].params.seed = 99;
            draws[i].position = static_cast<std::int32_t>(i * 7);
          }
          const Drawn drawn = draw(backend, logits, unseen(logits), draws);
          const int compared =
              check_exact_tokens(setting.name, logits, unseen(logits), draws, drawn, 1);
          CHECK_MESSAGE(compared >= 14, setting.name, ": ", compared);
        }
      }
    }
  });
}

TEST_CASE("sample: temperature 0 is the argmax of the penalised logits, ties to the lowest id") {
  on_every_backend([](Backend& backend) {
    for (const cases::SampleCase& problem : cases::sample_cases()) {
      Values logits = random_logits(problem.vocabulary, 76);
      const std::vector<std::uint8_t> seen = every_third_seen(logits);
      const Draw greedy{{.temperature = 0.0f, .repetition_penalty = 1.5f, .top_k = 3}, 8};
      const Values best = reference::sample_distribution(logits, seen, greedy.params);
      const auto id = std::max_element(best.begin(), best.end()) - best.begin();
      CHECK(draw(backend, logits, seen, {greedy}).tokens[0].id == id);

      // Now the greatest three times, the first somewhere inside.
      if (problem.vocabulary < 3) continue;
      const auto size = logits.size();
      logits[size / 3] = logits[size / 2] = logits[size - 1] = 50.0;
      const Draw plain{{.temperature = 0.0f}, 8};
      CHECK(draw(backend, logits, unseen(logits), {plain}).tokens[0].id ==
            static_cast<std::int32_t>(size / 3));
    }
  });
}

TEST_CASE("sample: top-k of 1, a tiny top-p and a min-p of 1 equal greedy") {
  on_every_backend([](Backend& backend) {
    for (const std::int64_t vocabulary : {50, 997, 32000}) {
      const Values logits = random_logits(vocabulary, 77);
      const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
      std::vector<Draw> draws;
      for (int i = 0; i < 200; ++i) {
        const auto seed = static_cast<std::uint64_t>(i);
        draws.push_back({{.seed = seed, .temperature = 2.0f, .top_k = 1}, i});
        draws.push_back({{.seed = seed, .temperature = 2.0f, .top_p = 1e-6f, .top_k = 0}, i});
        draws.push_back({{.seed = seed, .temperature = 2.0f, .min_p = 1.0f, .top_k = 0}, i});
      }
      for (const SampledToken& token : draw(backend, logits, unseen(logits), draws).tokens) {
        CHECK(token.id == best);
      }
    }
  });
}

TEST_CASE("sample: ids tied with the k-th, with the last of top-p and with the greatest are kept") {
  on_every_backend([](Backend& backend) {
    // Ids 0, 9, 18, … 45 share the greatest logit; the others are far below but equally tied.
    Values logits(50, 0.0);
    for (std::size_t i = 0; i < logits.size(); i += 9) logits[i] = 3.0;
    const SamplingParams tied[] = {
        {.seed = 5, .temperature = 1.0f, .top_k = 2},                 // 6 tied: all stay
        {.seed = 5, .temperature = 1.0f, .top_p = 0.2f, .top_k = 0},  // mass 0.12 each
        {.seed = 5, .temperature = 1.0f, .min_p = 1.0f, .top_k = 0},
        {.seed = 5, .temperature = 1.0f, .top_k = 10},  // the k-th among the rest
    };
    for (const SamplingParams& params : tied) {
      std::vector<Draw> draws(3000, {params, 0});
      for (std::size_t i = 0; i < draws.size(); ++i) draws[i].position = static_cast<int>(i);
      std::vector<std::int64_t> counts(logits.size());
      for (const SampledToken& token : draw(backend, logits, unseen(logits), draws).tokens) {
        ++counts.at(static_cast<std::size_t>(token.id));
      }
      const Values exact = reference::sample_distribution(logits, unseen(logits), params);
      CHECK(std::count_if(exact.begin(), exact.end(), [](double p) { return p > 0.0; }) ==
            (params.top_k == 10 ? 50 : 6));
      const ChiSquare test = chi_square(counts, exact);
      CHECK(test.outside == 0);
      CHECK(test.p_value > 1e-4);
    }
  });
}

TEST_CASE("sample: NaN and infinite logits set the flag and give id 0") {
  on_every_backend([](Backend& backend) {
    for (const std::int64_t vocabulary : {1, 50, 32000}) {
      for (const double poison : {kNan, kInfinity, -kInfinity}) {
        for (const float temperature : {0.0f, 1.0f}) {
          for (const std::int64_t at : {std::int64_t{0}, vocabulary / 2, vocabulary - 1}) {
            Values logits = random_logits(vocabulary, 78);
            logits[static_cast<std::size_t>(at)] = poison;
            const Drawn drawn = draw(backend, logits, unseen(logits),
                                     {{{.temperature = temperature, .top_k = 5}, 3}});
            CHECK(drawn.tokens[0].not_finite != 0);
            CHECK(drawn.tokens[0].id == 0);
            CHECK(drawn.next_ids[0] == 0);
          }
        }
      }
    }
  });
}

TEST_CASE("sample: finite logits of any magnitude leave the flag at 0") {
  on_every_backend([](Backend& backend) {
    const Values logits = {-3e38, 3e38, 0.0, -1e-40, 1e20};
    for (const float temperature : {0.0f, 1e-5f, 1.0f}) {
      const Drawn drawn =
          draw(backend, logits, unseen(logits), {{{.temperature = temperature, .top_k = 0}, 3}});
      CHECK(drawn.tokens[0].id == 1);
      CHECK(drawn.tokens[0].not_finite == 0);
    }
  });
}

TEST_CASE("sample: prepares the next step") {
  on_every_backend([](Backend& backend) {
    const Values logits = random_logits(97, 79);
    for (const std::int32_t advance : {0, 1, 5, 1000}) {
      std::vector<Draw> draws;
      for (int i = 0; i < 50; ++i) {
        draws.push_back({{.seed = 3, .temperature = 1.0f, .top_k = 0}, 17 * i});
      }
      std::vector<std::uint8_t> seen = unseen(logits);
      seen[5] = 1;
      const Drawn drawn = draw(backend, logits, seen, draws, advance);
      // The draw belongs to the position after the step's tokens.
      CHECK(check_exact_tokens("advance", logits, seen, draws, drawn, advance) >= 48);
      for (std::size_t i = 0; i < draws.size(); ++i) {
        const auto id = static_cast<std::size_t>(drawn.tokens[i].id);
        CHECK(drawn.next_ids[i] == drawn.tokens[i].id);
        CHECK(drawn.tokens[i].not_finite == 0);
        CHECK(drawn.positions[i] == draws[i].position + advance);
        for (std::size_t v = 0; v < logits.size(); ++v) {
          CHECK((drawn.seen[i * logits.size() + v] != 0) == (v == 5 || v == id));
        }
      }
    }
  });
}

TEST_CASE("sample: a token's place among several is its position's") {
  on_every_backend([](Backend& backend) {
    const Values logits = random_logits(97, 79);
    const SamplingParams params{.temperature = 0.0f};
    const Values raw = values_of(params);
    const Guarded logits_tensor(backend, DType::kF32, {97}, logits);
    const Guarded params_tensor(backend, DType::kU8, {static_cast<std::int64_t>(raw.size())}, raw);
    Guarded seen(backend, DType::kU8, {97}, Values(97, 0.0)), next(backend, DType::kI32, {1});
    Guarded position(backend, DType::kI32, {1}, Values{8});
    Guarded sampled(backend, DType::kI32, {6}, Values(6, -7.0));
    backend.ops().sample({.logits = logits_tensor,
                          .params = params_tensor,
                          .seen = seen,
                          .position = position,
                          .next_ids = next,
                          .sampled = sampled,
                          .advance = 3});  // 11 % 3 = 2
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    CHECK(sampled.get("sampled") == Values{-7, -7, -7, -7, static_cast<double>(best), 0});
  });
}

TEST_CASE("sample: top-k is exact whether its scores are few, equal, in one thread or far below") {
  on_every_backend([](Backend& backend) {
    constexpr std::int64_t kVocabulary = 8197;  // no multiple of four
    const Values spread = random_logits(kVocabulary, 81);
    Values bunched = spread, steps = spread, far = spread;
    // One vector of four in 4096 belongs to a thread: give some of them all that is great.
    for (std::size_t i = 0; i < bunched.size(); ++i) {
      if (i / 4 % 1024 < 3) bunched[i] += 40.0;
      steps[i] = std::floor(spread[i]);     // thousands of ties
      far[i] = i == 77 ? 90.0 : spread[i];  // all others in the last bin
    }
    for (const Values& logits : {spread, bunched, steps, far}) {
      const std::vector<std::uint8_t> seen = every_third_seen(logits);
      for (const std::int32_t top_k : {1, 5, 200, 512, 513, 2000, 8196}) {
        for (const float top_p : {1.0f, 0.6f}) {
          const SamplingParams params = {
              .temperature = 1.0f, .top_p = top_p, .repetition_penalty = 1.1f, .top_k = top_k};
          std::vector<Draw> draws(24, {params, 0});
          for (std::size_t i = 0; i < draws.size(); ++i) {
            draws[i].params.seed = 7 + i;
            draws[i].position = static_cast<std::int32_t>(i);
          }
          const Drawn drawn = draw(backend, logits, seen, draws);
          const int compared = check_exact_tokens("top-k", logits, seen, draws, drawn, 1);
          CHECK_MESSAGE(compared >= 20, "top-k ", top_k, " top-p ", top_p, ": ", compared);
        }
      }
    }
  });
}

TEST_CASE("sample: any non-zero history byte counts as seen") {
  on_every_backend([](Backend& backend) {
    Values logits(16, 0.0);
    logits[3] = 4.0;
    logits[9] = 3.0;
    logits[11] = -0.5;
    for (const std::uint8_t mark : {std::uint8_t{1}, std::uint8_t{2}, std::uint8_t{0x80}}) {
      std::vector<std::uint8_t> seen(16, 0);
      seen[3] = mark;
      const Draw greedy{{.temperature = 0.0f, .repetition_penalty = 2.0f}, 0};
      CHECK(draw(backend, logits, seen, {greedy}).tokens[0].id == 9);
    }
    // A negative logit is multiplied: pushed down, not up.
    Values negative(16, -1.0);
    negative[3] = -0.9;
    std::vector<std::uint8_t> seen(16, 0);
    seen[3] = 1;
    const Draw greedy{{.temperature = 0.0f, .repetition_penalty = 2.0f}, 0};
    CHECK(draw(backend, negative, seen, {greedy}).tokens[0].id == 0);
  });
}

TEST_CASE("sample: a chain of replayed steps draws what eager steps draw") {
  on_every_backend([](Backend& backend) {
    const std::int64_t vocabulary = 101;
    const Values logits = random_logits(vocabulary, 80);
    SamplingParams params{.seed = 42, .temperature = 1.0f, .repetition_penalty = 1.4f, .top_k = 40};
    const Values raw = values_of(params);
    const Guarded logits_tensor(backend, DType::kF32, {vocabulary}, logits);
    const Guarded params_tensor(backend, DType::kU8, {static_cast<std::int64_t>(raw.size())}, raw);
    std::vector<double> ids[2];
    for (const bool replay : {false, true}) {
      Guarded seen(backend, DType::kU8, {vocabulary}, Values(101, 0.0));
      Guarded position(backend, DType::kI32, {1}, Values{7}), next(backend, DType::kI32, {3});
      Guarded sampled(backend, DType::kI32, {2});
      const SampleCall call{.logits = logits_tensor,
                            .params = params_tensor,
                            .seen = seen,
                            .position = position,
                            .next_ids = next,
                            .sampled = sampled};
      const auto plan = backend.record([&](Ops& ops) { ops.sample(call); });
      for (int step = 0; step < 60; ++step) {
        if (replay) {
          plan->run();
        } else {
          backend.ops().sample(call);
        }
        ids[replay].push_back(sampled.get("sampled")[0]);
      }
      CHECK(position.get("position")[0] == 67);
      CHECK(next.get("next")[0] == ids[replay].back());
    }
    CHECK(ids[0] == ids[1]);

    // The same chain by the oracle, its history growing.
    std::vector<std::uint8_t> seen(101, 0);
    for (std::uint32_t step = 0; step < 60; ++step) {
      const Values p = reference::sample_distribution(logits, seen, params);
      const auto id = static_cast<std::size_t>(reference::sample_token(p, 42, 8 + step).id);
      CHECK(ids[0][step] == static_cast<double>(id));
      seen[id] = 1;
    }
  });
}

}  // namespace
}  // namespace engine::test
