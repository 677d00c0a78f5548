// Mixtures of experts against transformers' float32 logits, on every backend, with 1, 2, 7, 64 and
// 300 tokens a step.
//
// In 16 bits a correct engine flips a close route now and then, as transformers' own bfloat16 does.
// The goldens are such that a flip changes the logits of its own token and hardly any others'
// (tools/make_goldens.py), and say of each row how close its routes are.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "engine/runtime/model_loader.h"
#include "engine/runtime/session.h"
#include "tests/model/forward.h"
#include "tests/model/goldens.h"
#include "tests/support/backends.h"
#include "tests/support/routing.h"

namespace engine::test {
namespace {

constexpr std::array<std::int64_t, 5> kSteps = {1, 2, 7, 64, 300};
constexpr double kF32Limit = 1e-10;
constexpr double kBF16Limit = 2e-3;
constexpr double kBF16MedianLimit = 1e-3;
constexpr double kF16Limit = 1e-4;
constexpr double kCloseMargin = 0.05;  // of router logits; bf16 keeps routes further apart

struct Loaded {
  ModelLoader loader;
  const Decoder* decoder;

  Loaded(Backend& backend, const Golden& golden, DType dtype)
      : loader(golden.directory), decoder(&loader.bind(dtype)) {
    loader.load(backend, nullptr);
  }
};

// The logits of the golden's rows from a session whose steps have at most `step` tokens.
std::vector<float> session_logits(Backend& backend, const Decoder& decoder, const Golden& golden,
                                  DType dtype, std::int64_t step) {
  const auto size = static_cast<std::int64_t>(golden.ids.size());
  Session session(backend, decoder, {.dtype = dtype, .max_context = size, .prefill_chunk = step});
  std::vector<float> all;
  session.prefill(golden.ids, false, [&](std::int64_t, std::span<const float> rows) {
    all.insert(all.end(), rows.begin(), rows.end());
  });
  return golden.stored_rows(all);
}

std::vector<double> row_errors(const Golden& golden, std::span<const float> logits) {
  std::vector<double> errors;
  const auto vocab = static_cast<std::size_t>(golden.vocab);
  for (std::size_t row = 0; row < golden.rows.size(); ++row) {
    errors.push_back(nmse(logits.subspan(row * vocab, vocab),
                          std::span(golden.logits).subspan(row * vocab, vocab)));
  }
  return errors;
}

// Runs body(backend, golden) for every mixture on every backend.
template <typename Body>
void for_each_mixture(Body&& body) {
  int mixtures = 0;
  on_every_backend([&](Backend& backend) {
    for (const Golden& golden : load_goldens()) {
      if (!golden.is_mixture()) continue;
      CAPTURE(golden.name);
      body(backend, golden);
      ++mixtures;
    }
  });
  CHECK(mixtures == 4 * static_cast<int>(backends().size()));
}

TEST_CASE("logits of every golden mixture in f32 are those of transformers") {
  for_each_mixture([](Backend& backend, const Golden& golden) {
    const Loaded loaded(backend, golden, DType::kF32);
    for (const std::int64_t step : kSteps) {
      CAPTURE(step);
      CHECK(nmse(session_logits(backend, *loaded.decoder, golden, DType::kF32, step),
                 golden.logits) <= kF32Limit);
    }
  });
}

TEST_CASE("in bf16 only rows with a close route are far from transformers' float32") {
  for_each_mixture([](Backend& backend, const Golden& golden) {
    const Loaded loaded(backend, golden, DType::kBF16);
    for (const std::int64_t step : kSteps) {
      CAPTURE(step);
      const std::vector<double> errors =
          row_errors(golden, session_logits(backend, *loaded.decoder, golden, DType::kBF16, step));
      std::vector<double> sorted = errors;
      std::sort(sorted.begin(), sorted.end());
      CHECK(sorted[sorted.size() / 2] <= kBF16MedianLimit);
      for (std::size_t row = 0; row < errors.size(); ++row) {
        if (errors[row] <= kBF16Limit) continue;
        CHECK(std::isfinite(errors[row]));
        CAPTURE(golden.rows[row]);
        CAPTURE(errors[row]);
        CHECK(golden.router_margins[row] < kCloseMargin);
      }
    }
  });
}

TEST_CASE("with the routes of f32 forced, 16-bit logits are close in every row") {
  for_each_mixture([](Backend& backend, const Golden& golden) {
    const Loaded exact(backend, golden, DType::kF32);
    RouteRecorder recorder(backend, exact.decoder->config().layers);
    const std::vector<float> f32 =
        forward_logits(backend, recorder, *exact.decoder, golden.ids, DType::kF32, 64);
    CHECK(nmse(golden.stored_rows(f32), golden.logits) <= kF32Limit);
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      const double limit = dtype == DType::kBF16 ? kBF16Limit : kF16Limit;
      const Loaded loaded(backend, golden, dtype);
      for (const std::int64_t step : kSteps) {
        CAPTURE(std::string(dtype_name(dtype)));
        CAPTURE(step);
        RouteForcer forcer(backend, recorder.routes());
        const std::vector<double> errors =
            row_errors(golden, golden.stored_rows(forward_logits(backend, forcer, *loaded.decoder,
                                                                 golden.ids, dtype, step)));
        // Element by element: NaN is not at most the limit.
        for (const double error : errors) CHECK(error <= limit);
      }
    }
  });
}

TEST_CASE("wrong experts and weights that are not renormalised are far outside the limit") {
  for_each_mixture([](Backend& backend, const Golden& golden) {
    const Loaded loaded(backend, golden, DType::kF32);
    WrongExperts shifted(backend);
    NoRenormalising plain(backend);
    for (Ops* ops : {static_cast<Ops*>(&shifted), static_cast<Ops*>(&plain)}) {
      const std::vector<float> logits =
          forward_logits(backend, *ops, *loaded.decoder, golden.ids, DType::kF32, 300);
      CHECK(nmse(golden.stored_rows(logits), golden.logits) > 1e-3);
    }
  });
}

}  // namespace
}  // namespace engine::test
