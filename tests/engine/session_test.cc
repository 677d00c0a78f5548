// Sessions: capacity, determinism, eager against replayed steps, history, and chunked prompts.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/runtime/model_loader.h"
#include "engine/runtime/session.h"
#include "kernels/core/check.h"
#include "tests/model/goldens.h"
#include "tests/support/backends.h"

namespace engine::test {
namespace {

constexpr std::int64_t kContext = 256;  // what the golden checkpoints allow

const Golden& golden_named(const std::string& name) {
  static const std::vector<Golden> all = load_goldens();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Golden& g) { return g.name == name; });
  REQUIRE(found != all.end());
  return *found;
}

struct Loaded {
  ModelLoader loader;
  const Decoder* decoder;

  Loaded(Backend& backend, const std::string& name, DType dtype,
         std::optional<QuantFormat> linear = std::nullopt)
      : loader(golden_named(name).directory), decoder(&loader.bind(dtype, linear)) {
    loader.load(backend, nullptr);
  }
};

std::vector<std::int32_t> draw(Session& session, std::span<const std::int32_t> prompt,
                               std::int64_t count, int lookahead = 0) {
  session.prefill(prompt, true);
  std::vector<std::int32_t> ids;
  std::int64_t issued = 1;
  while (static_cast<std::int64_t>(ids.size()) < count) {
    while (issued < count && session.pending() <= lookahead) {
      session.decode();
      ++issued;
    }
    ids.push_back(session.next());
  }
  return ids;
}

TEST_CASE("a seed gives the same 200 ids eager or replayed, looking ahead or not, ten times over") {
  struct Case {
    const char* name;
    DType dtype;
    QuantFormat linear;
  };
  on_every_backend([](Backend& backend) {
    for (const auto& [name, dtype, linear] :
         {Case{"gqa", DType::kF32, QuantFormat::kF32},
          Case{"gqa", DType::kBF16, QuantFormat::kBF16},
          Case{"gqa", DType::kF16, QuantFormat::kF16},
          Case{"gqa", DType::kBF16, QuantFormat::kInt8},
          Case{"mixtral_8_top2", DType::kF32, QuantFormat::kF32},
          Case{"mixtral_8_top2", DType::kBF16, QuantFormat::kBF16},
          Case{"mixtral_8_top2", DType::kBF16, QuantFormat::kInt8}}) {
      CAPTURE(name);
      CAPTURE(dtype_name(dtype));
      CAPTURE(format_info(linear).name);
      const Loaded loaded(backend, name, dtype, linear);
      const std::vector<std::int32_t> prompt = {1, 5, 9};
      std::vector<std::int32_t> first;
      for (int run = 0; run < 10; ++run) {
        const bool replay = run % 2 == 1;
        Session session(backend, *loaded.decoder,
                        {.dtype = dtype, .max_context = kContext, .replay = replay});
        session.set_sampling({.seed = 1234, .temperature = 0.8f, .top_k = 50});
        const std::vector<std::int32_t> ids = draw(session, prompt, 200, run % 3);
        if (run == 0) first = ids;
        CHECK(ids == first);
      }
      Session other(backend, *loaded.decoder, {.dtype = dtype, .max_context = kContext});
      other.set_sampling({.seed = 1235, .temperature = 0.8f, .top_k = 50});
      CHECK(draw(other, prompt, 200) != first);
    }
  });
}

TEST_CASE("a session can be reset and gives the same ids again") {
  on_every_backend([](Backend& backend) {
    const Loaded loaded(backend, "gqa", DType::kF32);
    Session session(backend, *loaded.decoder, {.max_context = kContext});
    session.set_sampling({.seed = 7, .temperature = 1.0f});
    const std::vector<std::int32_t> prompt = {1, 5, 9};
    const std::vector<std::int32_t> first = draw(session, prompt, 40, 1);
    session.decode();  // left uncollected: reset drops it
    session.reset();
    CHECK(session.position() == 0);
    CHECK(draw(session, prompt, 40, 1) == first);
  });
}

TEST_CASE("a prompt given in two parts continues the sequence") {
  on_every_backend([](Backend& backend) {
    const Golden& golden = golden_named("gqa");
    const Loaded loaded(backend, "gqa", DType::kF32);
    const auto logits_of = [&](std::size_t split) {
      Session session(backend, *loaded.decoder, {.max_context = kContext});
      std::vector<float> all;
      const auto collect = [&](std::int64_t first, std::span<const float> rows) {
        CHECK(first * golden.vocab == static_cast<std::int64_t>(all.size()));
        all.insert(all.end(), rows.begin(), rows.end());
      };
      const std::span<const std::int32_t> ids = golden.ids;
      if (split > 0) session.prefill(ids.first(split), false, collect);
      session.prefill(ids.subspan(split), false, collect);
      return all;
    };
    const std::vector<float> whole = logits_of(0);
    CHECK(nmse(logits_of(1), whole) < 1e-10);
    CHECK(nmse(logits_of(17), whole) < 1e-10);
  });
}

TEST_CASE("the context holds exactly its capacity") {
  on_every_backend([](Backend& backend) {
    const Loaded loaded(backend, "gqa", DType::kF32);
    const std::vector<std::int32_t> prompt(16, 3);
    const auto prefill = [&](std::int64_t capacity) {
      auto session = std::make_unique<Session>(backend, *loaded.decoder,
                                               SessionOptions{.max_context = capacity});
      session->prefill(prompt, true);
      return session;
    };
    const auto full = prefill(16);
    CHECK(full->next() >= 0);  // a token is drawn from the last position
    CHECK_THROWS_AS(full->decode(), Error);
    const auto roomy = prefill(17);
    roomy->decode();
    CHECK(roomy->next() >= 0);
    CHECK(roomy->next() >= 0);
    try {
      prefill(15);
      FAIL("a prompt of 16 tokens fitted a context of 15");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kUsage);
      CHECK(std::string(error.what()).find("16") != std::string::npos);
      CHECK(std::string(error.what()).find("15") != std::string::npos);
    }
  });
}

TEST_CASE("ids outside the vocabulary and contexts past the model's limit are refused") {
  on_every_backend([](Backend& backend) {
    const Loaded loaded(backend, "gqa", DType::kF32);
    Session session(backend, *loaded.decoder, {.max_context = 8});
    for (const std::int32_t id : {-1, 97, 2147483647}) {
      try {
        session.prefill(std::vector<std::int32_t>{1, id}, true);
        FAIL("id ", id, " was taken");
      } catch (const Error& error) {
        CHECK(error.kind() == ErrorKind::kUsage);
      }
    }
    CHECK_THROWS_AS(Session(backend, *loaded.decoder, {.max_context = kContext + 1}), Error);
  });
}

TEST_CASE("the repetition penalty sees the prompt and what was drawn") {
  on_every_backend([](Backend& backend) {
    const Loaded loaded(backend, "gqa", DType::kF32);
    // A penalty this strong makes greedy decoding visit every id once before any comes again.
    Session session(backend, *loaded.decoder, {.max_context = kContext});
    session.set_sampling({.temperature = 0, .repetition_penalty = 1e6f});
    const std::vector<std::int32_t> prompt = {1, 5, 9};
    std::vector<std::int32_t> ids = draw(session, prompt, 30);
    ids.insert(ids.end(), prompt.begin(), prompt.end());
    std::sort(ids.begin(), ids.end());
    CHECK(std::adjacent_find(ids.begin(), ids.end()) == ids.end());
  });
}

TEST_CASE("the memory a session announces is what it takes") {
  on_every_backend([](Backend& backend) {
    const Loaded loaded(backend, "gqa", DType::kBF16);
    const SessionOptions options = {.dtype = DType::kBF16, .max_context = 100};
    const SessionMemory memory = Session::memory(backend, *loaded.decoder, options);
    // 2 layers of k and v: (2 heads, 100 positions, 8) bf16, each rounded up to 256 bytes.
    const ModelConfig& config = loaded.decoder->config();
    const auto one = static_cast<std::size_t>(config.kv_heads * 100 * config.head_dim * 2);
    CHECK(memory.kv_cache ==
          static_cast<std::size_t>(2 * config.layers) * ((one + 255) / 256 * 256));
    CHECK(memory.workspace > 0);
    const Session session(backend, *loaded.decoder, options);
    CHECK(session.memory().total() == memory.total());
  });
}

}  // namespace
}  // namespace engine::test
