// The measure of what int8 costs: by hand on small distributions, and on the demo checkpoints.
#include "engine/runtime/fidelity.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "engine/io/tokenizer.h"
#include "engine/runtime/model_loader.h"
#include "kernels/core/check.h"
#include "tests/model/goldens.h"
#include "tests/support/backends.h"
#include "tests/support/paths.h"

namespace engine::test {
namespace {

std::vector<float> log_of(const std::vector<double>& p, double shift) {
  std::vector<float> logits;
  for (const double value : p) logits.push_back(static_cast<float>(std::log(value) + shift));
  return logits;
}

TEST_CASE("divergence and agreement of known distributions") {
  Fidelity result;
  CHECK(result.top1_agreement() == 1);
  CHECK(result.sure_agreement() == 1);
  // KL = 0.5 ln(0.5 ÷ 0.25) + 0.25 ln(0.25 ÷ 0.5) + 0.25 ln(0.25 ÷ 0.25); a shift of the logits
  // changes no distribution.
  result.add(log_of({0.5, 0.25, 0.25}, 3), log_of({0.25, 0.5, 0.25}, -40));
  CHECK(result.mean_kl == doctest::Approx(0.25 * std::log(2.0)).epsilon(1e-6));
  CHECK(result.agreed == 0);
  CHECK(result.sure_positions == 1);  // ln 2 apart
  CHECK(result.sure_agreed == 0);
  // The reference is not sure here: ln(0.4 ÷ 0.35) is 0.13. It agrees, and so does a tie, which
  // the lowest index wins.
  result.add(log_of({0.25, 0.4, 0.35}, 0), log_of({0.25, 0.4, 0.35}, 0));
  result.add(std::vector<float>{1, 1, 0}, std::vector<float>{1, 1, 0});
  result.add(std::vector<float>{1, 1, 0}, std::vector<float>{0, 1, 0});
  CHECK(result.positions == 4);
  CHECK(result.sure_positions == 1);
  CHECK(result.agreed == 2);
  CHECK(result.top1_agreement() == 0.5);
  CHECK(result.sure_agreement() == 0);
  CHECK(result.largest_kl >= result.mean_kl);
}

TEST_CASE("a margin of exactly a quarter counts as sure") {
  Fidelity result;
  result.add(std::vector<float>{0.25f, 0, -1}, std::vector<float>{0, 0.25f, -1});
  result.add(std::vector<float>{0.2499f, 0, -1}, std::vector<float>{0, 0.25f, -1});
  CHECK(result.sure_positions == 1);
}

TEST_CASE("logits that are not finite are refused") {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Fidelity result;
    const std::vector<float> good = {1, 2}, spoilt = {1, bad};
    for (const bool first : {true, false}) {
      try {
        result.add(first ? spoilt : good, first ? good : spoilt);
        FAIL("took ", bad);
      } catch (const Error& error) {
        CHECK(error.kind() == ErrorKind::kNumeric);
      }
    }
    CHECK(result.positions == 0);
  }
}

struct Model {
  ModelLoader loader;
  const Decoder* decoder;
  Session session;

  Model(Backend& backend, const std::filesystem::path& directory, DType dtype, QuantFormat linear,
        std::int64_t context, std::int64_t chunk = 2048)
      : loader(directory),
        decoder(load(loader, backend, dtype, linear)),
        session(backend, *decoder,
                {.dtype = dtype, .max_context = context, .prefill_chunk = chunk}) {}

  static const Decoder* load(ModelLoader& loader, Backend& backend, DType dtype,
                             QuantFormat linear) {
    const Decoder* decoder = &loader.bind(dtype, linear);
    loader.load(backend, nullptr);
    return decoder;
  }
};

TEST_CASE("the prediction of every token of a long text counts once") {
  const std::vector<Golden> goldens = load_goldens();
  const auto found =
      std::find_if(goldens.begin(), goldens.end(), [](const Golden& g) { return g.name == "gqa"; });
  REQUIRE(found != goldens.end());
  on_every_backend([&](Backend& backend) {
    Model one(backend, found->directory, DType::kF32, QuantFormat::kF32, 16);
    Model other(backend, found->directory, DType::kF32, QuantFormat::kInt8, 30);
    std::int64_t last = 0;
    const auto progress = [&](std::int64_t tokens) { last = tokens; };
    // 40 tokens in windows of 16, 8 apart.
    const Fidelity with_bos = fidelity(one.session, other.session, found->ids, 1, progress);
    CHECK(with_bos.positions == 40);
    CHECK(last == 40);
    CHECK(with_bos.mean_kl > 0);
    const Fidelity without = fidelity(one.session, other.session, found->ids, {}, progress);
    CHECK(without.positions == 39);
    CHECK(last == 39);
    Model twin(backend, found->directory, DType::kF32, QuantFormat::kF32, 16);
    const Fidelity same = fidelity(one.session, twin.session, found->ids, 1, nullptr);
    CHECK(same.mean_kl == 0);
    CHECK(same.agreed == same.positions);
    CHECK_THROWS_AS(fidelity(one.session, one.session, found->ids, 1, nullptr), Error);
    CHECK_THROWS_AS(fidelity(one.session, other.session, {}, 1, nullptr), Error);
  });
}

TEST_CASE("on the demo checkpoints int8 agrees with bf16 wherever bf16 is sure") {
  // Three stories of the kind that both were trained on but not among the training text, each
  // between <s> and </s>: tools/make_stories.py --count 3 --seed 77 --text, joined.
  std::ifstream in(source_dir() / "tests/model/stories.txt", std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  for (const char* name : {"stories-3m", "stories-moe-3m"}) {
    const std::filesystem::path directory = source_dir() / "models" / name;
    const auto tokenizer = load_tokenizer(directory);
    const std::vector<std::int32_t> ids = tokenizer->encode(text, false);
    REQUIRE(ids.size() > 1000);
    const std::optional<std::int32_t> bos = tokenizer->bos_id();
    on_every_backend([&](Backend& backend) {
      for (const std::int64_t chunk : {std::int64_t{2048}, std::int64_t{1}}) {
        Model plain(backend, directory, DType::kBF16, QuantFormat::kBF16, 512, chunk);
        Model int8(backend, directory, DType::kBF16, QuantFormat::kInt8, 512, chunk);
        const Fidelity result = fidelity(plain.session, int8.session, ids, bos, nullptr);
        CAPTURE(name);
        CAPTURE(chunk);
        CHECK(result.positions == static_cast<std::int64_t>(ids.size()));
        CHECK(result.sure_positions > result.positions / 2);
        CHECK(result.sure_agreed == result.sure_positions);
        CHECK(result.mean_kl <= 2e-3);
        CHECK(result.mean_kl > 0);
      }
    });
  }
}

}  // namespace
}  // namespace engine::test
