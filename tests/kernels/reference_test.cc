// The oracles, on problems small enough to work out by hand.
#include "kernels/reference/reference.h"

#include <cmath>

#include "kernels/cases/cases.h"
#include "tests/support/chi_square.h"
#include "tests/support/closeness.h"

namespace engine::test {
namespace {

void check_near(const char* what, const Values& found, const Values& expected) {
  check_close(what, found, expected, Values(expected.size(), 1e-12));
}

TEST_CASE("oracle of rmsnorm: rows of root mean square 5 and 1") {
  check_near(
      "rmsnorm",
      reference::rmsnorm(Values{3, -4, 5, std::sqrt(50.0), 1, 1, -1, 1}, Values{1, 2, 3, 4}, 0.0),
      {0.6, -1.6, 3, 4 * std::sqrt(2.0), 1, 2, -3, 4});
  // mean(x²) = 8 with eps 8: the root is 4.
  check_near("eps", reference::rmsnorm(Values{0, 4}, Values{1, 0.5}, 8.0), {0, 0.5});
  const DType bf16 = DType::kBF16;
  // 1 ÷ √3 rounds to 148 ÷ 256 in bf16 before the weight 3.
  check_near("rounded",
             reference::rmsnorm(Values{1, 1, std::sqrt(7.0)}, Values{3, 0, 0}, 0.0, &bf16),
             {3 * 148.0 / 256, 0, 0});
}

TEST_CASE("oracle of linear: two tokens, three channels") {
  check_near("linear", reference::linear(Values{1, 2, 3, 4}, Values{1, 0, 0, 1, 2, -1}, {}, 2),
             {1, 2, 0, 3, 4, 2});
  check_near("residual",
             reference::linear(Values{1, 2}, Values{1, 0, 0, 1, 2, -1}, Values{10, 20, 30}, 2),
             {11, 22, 30});
}

TEST_CASE("oracle of rope: a quarter turn pairs i with i + Dh/2") {
  // Position 0: no turn. Position 1: 90° for pair 0, 180° for pair 1.
  const Values table = {1, 1, 0, 0, 0, -1, 1, 0};
  const Values x = {1, 2, 3, 4};
  check_near("at 0", reference::rope(x, table, 1, 4, 0), {1, 2, 3, 4});
  check_near("at 1", reference::rope(x, table, 1, 4, 1), {-3, -2, 1, -4});
  check_near("past the end", reference::rope(x, table, 1, 4, 7), {-3, -2, 1, -4});
  const Values two = {1, 2, 3, 4, 5, 6, 7, 8};
  check_near("two tokens", reference::rope(two, table, 1, 4, 0), {1, 2, 3, 4, -7, -6, 5, -8});
  check_near("two heads", reference::rope(two, table, 2, 4, 1), {-3, -2, 1, -4, -7, -6, 5, -8});
}

TEST_CASE("oracle of kv_append: by head, and not past the capacity") {
  Values cache(12, 0.0);  // (2, 3, 2)
  reference::kv_append(cache, Values{1, 2, 3, 4, 5, 6, 7, 8}, 2, 2, 2);
  CHECK(cache == Values{0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 3, 4});
}

TEST_CASE("oracle of attention: weights of ln 1 and ln 3, causal, window, groups") {
  // Keys score 0, ln 3, 0 for q = 1; values 4, 8, 100.
  const Values keys = {0, std::log(3.0), 0}, values = {4, 8, 100};
  reference::AttentionProblem p{.tokens = 1, .capacity = 3, .position = 1};
  const reference::AttentionResult two = reference::attention(p, Values{1}, keys, values);
  check_near("causal", two.out, {7});  // (4 + 3 · 8) ÷ 4
  check_near("lse", two.lse, {std::log(4.0)});
  p.window = 1;
  check_near("window", reference::attention(p, Values{1}, keys, values).out, {8});
  p = {.tokens = 2, .capacity = 3, .position = 0, .causal = false};
  check_near("not causal", reference::attention(p, Values{1, 0}, keys, values).out, {7, 6});
  p.causal = true;
  check_near("two tokens", reference::attention(p, Values{1, 1}, keys, values).out, {4, 7});
  p = {.tokens = 1, .heads = 4, .kv_heads = 2, .capacity = 2, .position = 0, .scale = 2.0};
  check_near(
      "groups",
      reference::attention(p, Values{1, 2, 3, 4}, Values{1, 9, 2, 9}, Values{5, 9, 6, 9}).out,
      {5, 5, 6, 6});
  check_near(
      "scale",
      reference::attention(p, Values{1, 2, 3, 4}, Values{1, 9, 2, 9}, Values{5, 9, 6, 9}).lse,
      {2, 4, 12, 16});
}

TEST_CASE("oracle of silu_mul") {
  check_near("silu_mul",
             reference::silu_mul(Values{0, std::log(3.0), -std::log(3.0)}, Values{5, 2, 4}),
             {0, 1.5 * std::log(3.0), -std::log(3.0)});
}

TEST_CASE("oracle of sample: each filter on probabilities 1/2, 1/4, 1/8, 1/8") {
  const Values logits = {std::log(2.0), std::log(4.0), 0.0, 0.0};
  const std::vector<std::uint8_t> none(4, 0), first = {0, 1, 0, 1};
  const auto distribution = [&](SamplingParams p, const std::vector<std::uint8_t>& seen) {
    return reference::sample_distribution(logits, seen, p);
  };
  check_near("plain", distribution({.temperature = 1, .top_k = 0}, none), {.25, .5, .125, .125});
  check_near("temperature", distribution({.temperature = 0.5f, .top_k = 0}, none),
             {4 / 22.0, 16 / 22.0, 1 / 22.0, 1 / 22.0});
  check_near("top-k 2", distribution({.temperature = 1, .top_k = 2}, none),
             {1 / 3.0, 2 / 3.0, 0, 0});
  check_near("top-k tie", distribution({.temperature = 1, .top_k = 3}, none),
             {.25, .5, .125, .125});
  check_near("top-p reached exactly",
             distribution({.temperature = 1, .top_p = 0.75f, .top_k = 0}, none),
             {1 / 3.0, 2 / 3.0, 0, 0});
  check_near("top-p passed", distribution({.temperature = 1, .top_p = 0.8f, .top_k = 0}, none),
             {.25, .5, .125, .125});
  // After top-k 2 the shares are 1/3 and 2/3: the first alone reaches 0.6.
  check_near("top-p of what top-k left",
             distribution({.temperature = 1, .top_p = 0.6f, .top_k = 2}, none), {0, 1, 0, 0});
  check_near("min-p", distribution({.temperature = 1, .min_p = 0.5f, .top_k = 0}, none),
             {1 / 3.0, 2 / 3.0, 0, 0});
  // ln 4 ÷ 2 = ln 2; 0 stays 0 whichever way.
  check_near("penalty",
             distribution({.temperature = 1, .repetition_penalty = 2, .top_k = 0}, first),
             {2 / 6.0, 2 / 6.0, 1 / 6.0, 1 / 6.0});
  // Negative logits are multiplied: −ln 2 becomes −2 ln 2.
  check_near("penalty below 0",
             reference::sample_distribution(
                 Values{-std::log(2.0), -std::log(2.0)}, std::vector<std::uint8_t>{1, 0},
                 {.temperature = 1, .repetition_penalty = 2, .top_k = 0}),
             {1 / 3.0, 2 / 3.0});
  check_near("greedy tie", distribution({.temperature = 0, .repetition_penalty = 2}, first),
             {1, 0, 0, 0});
  CHECK(reference::sample_token(Values{0, 0, 1, 0}, 3, 4).id == 2);
}

TEST_CASE("chi-square gives the tabulated tails and notices a wrong die") {
  // Critical values of the 5 % and 0.1 % level (any table).
  CHECK(gamma_tail(0.5, 3.841459 / 2) == doctest::Approx(0.05).epsilon(1e-5));
  CHECK(gamma_tail(5.0, 18.307038 / 2) == doctest::Approx(0.05).epsilon(1e-5));
  CHECK(gamma_tail(50.0, 149.449253 / 2) == doctest::Approx(0.001).epsilon(1e-5));
  CHECK(gamma_tail(1.0, 2.0) == doctest::Approx(std::exp(-2.0)).epsilon(1e-12));
  const Values fair(6, 1.0 / 6.0);
  CHECK(chi_square({1010, 990, 1000, 995, 1005, 1000}, fair).p_value > 0.9);
  CHECK(chi_square({1100, 980, 980, 980, 980, 980}, fair).p_value < 0.05);
  CHECK(chi_square({1200, 960, 960, 960, 960, 960}, fair).p_value < 1e-4);
  CHECK(chi_square({10, 0, 3}, {1.0, 0.0, 0.0}).outside == 3);
}

TEST_CASE("check of closeness: NaN, infinities and the formulas") {
  CHECK(gamma(3, 0.25) == 3.0);
  CHECK(unit_roundoff(DType::kBF16) == 0x1p-8);
  CHECK(nmse({1, 2, 4}, {1, 2, 3}) == doctest::Approx(1.0 / 14.0));
  CHECK(nmse({0, 1}, {0, 0}) == kInfinity);
  CHECK(nmse({0, 0}, {0, 0}) == 0.0);
  check_equal("NaN and infinities agree", {kNan, kInfinity, -kInfinity},
              {kNan, kInfinity, -kInfinity});
}

TEST_CASE("the table of cases holds the sizes it promises and counts its bytes") {
  using namespace cases;
  CHECK(LinearCase{2, 3, 5}.cost(DType::kBF16, false, false).bytes == 2 * (15 + 10 + 6));
  CHECK(LinearCase{2, 3, 5}.cost(DType::kBF16, true, true).bytes == 2 * (15 + 10) + 4 * 12);
  CHECK(LinearCase{2, 3, 5}.cost(DType::kF32, false, false).flops == 60);
  // One token at position 3: 4 keys of 2 heads, 2 values and keys of 1 head.
  CHECK(AttentionCase{1, 2, 1, 8, 3}.cost(DType::kF32).flops == 4 * 4 * 2 * 8);
  CHECK(AttentionCase{1, 2, 1, 8, 3}.cost(DType::kF32).bytes == 4 * 8 * (2 * 2 + 2 * 4));
  CHECK(AttentionCase{3, 1, 1, 8, 0}.cost(DType::kF32).flops == 4 * (1 + 2 + 3) * 8);
  CHECK(AttentionCase{3, 1, 1, 8, 5, 0, 2}.cost(DType::kF32).flops == 4 * (2 + 2 + 2) * 8);
  CHECK(AttentionCase{3, 1, 1, 8, 5, 0, 0, false}.cost(DType::kF32).flops == 4 * 3 * 8 * 8);
  CHECK(RowsCase{2, 8}.rmsnorm_cost(DType::kF16).bytes == 2 * (16 + 16 + 8));
  CHECK(EmbedCase{3, 8, 100}.cost(DType::kF32).bytes == 3 * (2 * 32 + 4));
  CHECK(KvAppendCase{8, 2, 128, 10, 5}.cost(DType::kF32).bytes == 4 * 4 * 5 * 2 * 128);
  for (const std::int64_t tokens : {1, 2, 3, 7, 8, 17, 64, 129, 300}) {
    const auto is_it = [&](const auto& c) { return c.tokens == tokens; };
    CHECK(std::any_of(linear_cases().begin(), linear_cases().end(), is_it));
    CHECK(std::any_of(attention_cases().begin(), attention_cases().end(), is_it));
    CHECK(std::any_of(rope_cases().begin(), rope_cases().end(), is_it));
    CHECK(std::any_of(embed_cases().begin(), embed_cases().end(), is_it));
  }
  for (const std::int64_t size : {8, 24, 64, 80, 96, 128, 256}) {
    const auto is_it = [&](const auto& c) { return c.head_size == size; };
    CHECK(std::any_of(attention_cases().begin(), attention_cases().end(), is_it));
    CHECK(std::any_of(rope_cases().begin(), rope_cases().end(), is_it));
  }
  CHECK(linear_cases()[0].name() == "T1 N1 K1");
}

}  // namespace
}  // namespace engine::test
