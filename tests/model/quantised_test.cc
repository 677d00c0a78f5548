// Models with int8 linear weights against the float model run on the weights that int8 decodes to,
// with one row and with many at a time, dense and mixture, tied and untied.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <vector>

#include "engine/runtime/model_loader.h"
#include "kernels/core/check.h"
#include "tests/model/edited_checkpoint.h"
#include "tests/model/forward.h"
#include "tests/model/goldens.h"
#include "tests/support/backends.h"
#include "tests/support/routing.h"
#include "tests/support/temp_dir.h"

namespace engine::test {
namespace {

constexpr std::array<std::int64_t, 3> kSteps = {1, 7, 300};
// The scale multiplies the sum instead of every weight: in f32 the rounding of the sums differs, in
// bf16 that of the activations comes on top, over some tens of roundings of 2⁻⁹.
constexpr double kF32Limit = 1e-8;
constexpr double kBF16Limit = 2e-3;

Golden golden_named(const std::string& name) {
  const std::vector<Golden> all = load_goldens();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Golden& g) { return g.name == name; });
  REQUIRE(found != all.end());
  return *found;
}

struct Loaded {
  ModelLoader loader;
  const Decoder* decoder;

  Loaded(Backend& backend, const std::filesystem::path& directory, DType dtype,
         std::optional<QuantFormat> linear = std::nullopt)
      : loader(directory), decoder(&loader.bind(dtype, linear)) {
    loader.load(backend, nullptr);
  }
};

// A checkpoint, the decoded twin of its int8 form, and a prompt.
struct Pair {
  std::string name;
  std::vector<std::int32_t> ids;
  TempDir stored, decoded;

  explicit Pair(const std::string& golden_name, bool tie = false) : name(golden_name) {
    const Golden golden = golden_named(golden_name);
    ids = golden.ids;
    EditedCheckpoint checkpoint(golden.directory);
    if (tie) {
      name += ", tied";
      checkpoint.config["tie_word_embeddings"] = true;
      checkpoint.erase("lm_head.weight");
    }
    checkpoint.write(stored.path());
    decode_int8(checkpoint);
    checkpoint.write(decoded.path());
  }
};

template <typename Body>
void for_each_pair(Body&& body) {
  struct Case {
    const char* name;
    bool tie;
  };
  for (const Case& c : {Case{"gqa", false}, Case{"tied_bf16", false}, Case{"odd_vocab_f16", false},
                        Case{"feed_forward_172_bf16", false}, Case{"mixtral_8_top2", false},
                        Case{"mixtral_8_top2", true}, Case{"mixtral_5_top3_bf16", false},
                        Case{"mixtral_fused", false}}) {
    const Pair pair(c.name, c.tie);
    on_every_backend([&](Backend& backend) {
      CAPTURE(pair.name);
      body(backend, pair);
    });
  }
}

std::int64_t layers_of(const Loaded& loaded) { return loaded.decoder->config().layers; }

TEST_CASE("int8 in f32 gives the logits of the float model on the decoded weights") {
  for_each_pair([](Backend& backend, const Pair& pair) {
    const Loaded exact(backend, pair.decoded.path(), DType::kF32);
    const Loaded plain(backend, pair.stored.path(), DType::kF32);
    const Loaded int8(backend, pair.stored.path(), DType::kF32, QuantFormat::kInt8);
    const auto run = [&](const Loaded& loaded, std::int64_t step) {
      return forward_logits(backend, backend.ops(), *loaded.decoder, pair.ids, DType::kF32, step);
    };
    const std::vector<float> expected = run(exact, 300);
    for (const std::int64_t step : kSteps) {
      CAPTURE(step);
      CHECK(nmse(run(int8, step), expected) <= kF32Limit);
    }
    // Quantising does change the logits, so that the comparison above says something.
    CHECK(nmse(run(plain, 300), expected) > 1e-6);
  });
}

TEST_CASE("int8 in bf16 stays within bf16's limit of the decoded weights in f32") {
  for_each_pair([](Backend& backend, const Pair& pair) {
    const Loaded exact(backend, pair.decoded.path(), DType::kF32);
    const Loaded int8(backend, pair.stored.path(), DType::kBF16, QuantFormat::kInt8);
    // The routes of a mixture are those of f32: bf16 may choose others where two are close.
    RouteRecorder recorder(backend, layers_of(exact));
    const std::vector<float> expected =
        forward_logits(backend, recorder, *exact.decoder, pair.ids, DType::kF32, 300);
    for (const std::int64_t step : kSteps) {
      CAPTURE(step);
      RouteForcer forcer(backend, recorder.routes());
      const std::vector<float> logits =
          forward_logits(backend, forcer, *int8.decoder, pair.ids, DType::kBF16, step);
      CHECK(nmse(logits, expected) <= kBF16Limit);
    }
  });
}

TEST_CASE("int8 keeps tables, norms and router in the compute type, and counts every byte") {
  const Golden golden = golden_named("mixtral_8_top2");
  ModelLoader loader(golden.directory);
  // D 32, 4 heads on 2 of size 8, F 24, V 97, 2 layers, 8 experts, 2 chosen.
  const std::size_t norms = (2 * 2 + 1) * 32 * 4, table = 97 * 32 * 4, router = 2 * 8 * 32 * 4;
  const auto rows = [](std::size_t count, std::size_t columns) { return count * (columns + 2); };
  const std::size_t attention = 2 * (rows(32 + 16 + 16, 32) + rows(32, 32));
  const std::size_t expert = 2 * (rows(2 * 24, 32) + rows(32, 24));
  const std::size_t head = rows(97, 32);
  const Decoder& decoder = loader.bind(DType::kF32, QuantFormat::kInt8);
  CHECK(loader.device_bytes() == norms + table + router + attention + 8 * expert + head);
  CHECK(decoder.bytes_per_token() == norms + router + attention + 2 * expert + head);
  // The file is float32; the table is read once.
  const std::size_t read = norms + table + router + 2 * 4 * (64 * 32 + 32 * 32) +
                           2 * 8 * 4 * (48 * 32 + 32 * 24) + 97 * 32 * 4;
  CHECK(loader.file_bytes() == read);
}

TEST_CASE("tied embeddings under int8 are a table and a head, both counted") {
  const Golden golden = golden_named("tied_bf16");  // V 128, D 32
  ModelLoader loader(golden.directory);
  const Decoder& plain = loader.bind(DType::kBF16);
  const std::size_t plain_bytes = loader.device_bytes(), plain_read = loader.file_bytes();
  const std::size_t plain_token = plain.bytes_per_token();
  const Decoder& int8 = loader.bind(DType::kBF16, QuantFormat::kInt8);
  // 3 layers: q, k, v and output of 4 heads on 2 of size 8, gate and up and down with F 86.
  const std::size_t linear = 3 * (64 * 32 + 32 * 32 + 172 * 32 + 32 * 86);
  const std::size_t scales = 3 * 2 * (64 + 32 + 172 + 32), head = 128 * (32 + 2);
  CHECK(loader.device_bytes() == plain_bytes - 2 * linear + linear + scales + head);
  CHECK(loader.file_bytes() == plain_read + 128 * 32 * 2);
  CHECK(int8.bytes_per_token() == plain_token - 128 * 32 * 2 - linear + scales + head);
}

TEST_CASE("int8 of weights that are not finite is refused by the tensor's name") {
  const Golden golden = golden_named("mixtral_8_top2");
  for (const char* name : {"model.layers.1.self_attn.k_proj.weight",
                           "model.layers.0.block_sparse_moe.experts.5.w3.weight"}) {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      EditedCheckpoint checkpoint(golden.directory);
      EditedTensor& tensor = checkpoint.tensor(name);
      std::vector<float> values = tensor.values();
      values[values.size() - 3] = bad;
      tensor.set_values(values);
      const TempDir directory;
      checkpoint.write(directory.path());
      on_every_backend([&](Backend& backend) {
        CAPTURE(name);
        try {
          const Loaded loaded(backend, directory.path(), DType::kF32, QuantFormat::kInt8);
          FAIL("loaded a weight of ", bad);
        } catch (const Error& error) {
          CHECK(error.kind() == ErrorKind::kModel);
          CHECK(std::string(error.what()).find(name) != std::string::npos);
        }
        CHECK_NOTHROW(Loaded(backend, directory.path(), DType::kF32));
      });
    }
  }
}

}  // namespace
}  // namespace engine::test
