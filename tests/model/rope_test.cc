// RoPE frequencies and tables against transformers, and the table against its definition.
#include "engine/model/rope.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "engine/model/config.h"
#include "tests/support/outcome.h"

namespace engine {
namespace {

struct RopeGolden {
  const char* name;
  const char* config;  // config.json
  double attention_factor;
  std::vector<std::size_t> pairs;  // the indices i that cosines and sines are given for
  std::vector<float> frequencies;  // (Dh / 2)
  std::vector<float> cosines;      // (positions, pairs)
  std::vector<float> sines;        // (positions, pairs)
};

#include "tests/model/rope_goldens.inc"

constexpr float kUlp = std::numeric_limits<float>::epsilon();  // of 1

// Both sides round: powf to within 1 ulp, then a reciprocal, and for llama3 and yarn up to six
// more fp32 operations, each half an ulp; a blend's (1 - s) with s near 1 cancels, but what it
// loses is small against the sum. 2 x (1 + 1 + 6/2) = 10 ulps of relative difference.
constexpr float kFrequencyTolerance = 10 * kUlp;

TEST_CASE("rope: frequencies and attention factors are those of transformers") {
  for (const RopeGolden& golden : kRopeGoldens) {
    CAPTURE(golden.name);
    const ModelConfig config = parse_config(golden.config, "config.json");
    const std::vector<float> frequencies = rope_inverse_frequencies(config.rope, config.head_dim);
    REQUIRE(frequencies.size() == golden.frequencies.size());
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
      CAPTURE(i);
      const float expected = golden.frequencies[i];
      CHECK(std::abs(frequencies[i] - expected) <= kFrequencyTolerance * expected);
    }
    CHECK(rope_attention_factor(config.rope) ==
          doctest::Approx(golden.attention_factor).epsilon(kUlp));
  }
}

TEST_CASE("rope: tables are those of transformers, as far as the frequencies agree") {
  for (const RopeGolden& golden : kRopeGoldens) {
    CAPTURE(golden.name);
    const ModelConfig config = parse_config(golden.config, "config.json");
    const auto dim = static_cast<std::size_t>(config.head_dim);
    const std::vector<float> frequencies = rope_inverse_frequencies(config.rope, config.head_dim);
    const std::int64_t positions = kRopePositions[std::size(kRopePositions) - 1] + 1;
    const std::vector<float> table = rope_table(config.rope, config.head_dim, positions);
    REQUIRE(table.size() == dim * static_cast<std::size_t>(positions));
    for (std::size_t p = 0; p < std::size(kRopePositions); ++p) {
      for (std::size_t k = 0; k < golden.pairs.size(); ++k) {
        const std::size_t pair = golden.pairs[k];
        CAPTURE(pair);
        CAPTURE(kRopePositions[p]);
        // The angles differ by what the frequencies differ, and by one rounding; the slope of
        // cosine and sine is at most 1, and each rounds once more, as does the product.
        const float position = static_cast<float>(kRopePositions[p]);
        const float expected_angle = position * golden.frequencies[pair];
        const float angle = position * frequencies[pair];
        const float tolerance =
            (std::abs(angle - expected_angle) + 2 * kUlp) * rope_attention_factor(config.rope);
        const float* row = table.data() + static_cast<std::size_t>(kRopePositions[p]) * dim;
        const std::size_t at = p * golden.pairs.size() + k;
        CHECK(std::abs(row[pair] - golden.cosines[at]) <= tolerance);
        CHECK(std::abs(row[dim / 2 + pair] - golden.sines[at]) <= tolerance);
      }
    }
  }
}

TEST_CASE("rope: each entry is the rounded cosine or sine of the fp32 angle") {
  const RopeConfig config{.kind = RopeKind::kYarn,
                          .theta = 1e4,
                          .factor = 8,
                          .original_positions = 256,
                          .attention_factor = 1.25};
  constexpr std::int64_t kDim = 6, kPositions = 301;
  const std::vector<float> frequencies = rope_inverse_frequencies(config, kDim);
  const std::vector<float> table = rope_table(config, kDim, kPositions);
  for (std::size_t p = 0; p < kPositions; ++p) {
    for (std::size_t i = 0; i < kDim / 2; ++i) {
      const float angle = static_cast<float>(p) * frequencies[i];
      const auto cosine = static_cast<float>(std::cos(static_cast<double>(angle)));
      const auto sine = static_cast<float>(std::sin(static_cast<double>(angle)));
      REQUIRE(table[p * kDim + i] == cosine * 1.25f);
      REQUIRE(table[p * kDim + kDim / 2 + i] == sine * 1.25f);
    }
  }
}

TEST_CASE("rope: no positions give an empty table, impossible sizes are refused") {
  CHECK(rope_table(RopeConfig{}, 8, 0).empty());
  for (const std::int64_t head_dim : {-2, 0, 1, 7}) {
    CHECK(test::outcome_of([&] {
            rope_inverse_frequencies(RopeConfig{}, head_dim);
          }).is(ErrorKind::kInternal));
  }
  CHECK(test::outcome_of([&] { rope_table(RopeConfig{}, 8, -1); }).is(ErrorKind::kInternal));
}

}  // namespace
}  // namespace engine
