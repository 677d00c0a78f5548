// The bytes and operations that benchmarks are rated by, against counts by hand.
#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <string_view>

#include "bench/models.h"
#include "bench/step_traffic.h"
#include "bench/synthetic_binder.h"
#include "engine/model/registry.h"
#include "kernels/backend.h"

namespace engine::bench {
namespace {

struct Model {
  std::unique_ptr<Decoder> decoder;
  SyntheticBinder binder;

  Model(std::string_view name, std::int64_t layers, QuantFormat linear)
      : binder(DType::kBF16, linear) {
    for (const ModelSpec& spec : model_specs()) {
      if (spec.name != name) continue;
      ModelConfig config = spec.config();
      if (layers > 0) config.layers = layers;
      decoder = make_decoder(config);
    }
    REQUIRE(decoder != nullptr);
    decoder->bind(binder);
  }
};

Backend& cpu() {
  static const std::unique_ptr<Backend> backend = make_backend({}, {.threads = 1});
  return *backend;
}

StepTraffic one_token(const Model& model, std::int64_t position) {
  return step_traffic(cpu(), *model.decoder, DType::kBF16, 1, position);
}

// With D = 4096, F = 11008, V = 32000: a layer has 4 D² + 3 D F = 202 375 168 weights in 42 496
// rows (q, k, v, o: 4 D; gate, up: 2 F; down: D) and two norms of D; then a norm and a head of V ×
// D.
TEST_CASE("the bytes of LLaMA 2 7B are those counted by hand") {
  const Model bf16("llama2-7b", 0, QuantFormat::kBF16);
  // (32 · 202 375 168 + 131 072 000 + 65 · 4096) · 2
  CHECK(one_token(bf16, 0).model_bytes() == 13'214'687'232.0);
  CHECK(bf16.decoder->bytes_per_token() == 13'214'687'232u);
  // The table that a token reads one row of takes V × D × 2 more.
  CHECK(bf16.binder.device_bytes() == 13'214'687'232u + 262'144'000u);

  const Model int8("llama2-7b", 0, QuantFormat::kInt8);
  // 32 · (202 375 168 + 2 · 42 496) + 131 072 000 + 2 · 32 000 + 65 · 4096 · 2
  CHECK(one_token(int8, 0).model_bytes() == 6'610'393'600.0);
  CHECK(int8.decoder->bytes_per_token() == 6'610'393'600u);
  CHECK(int8.binder.device_bytes() == 6'610'393'600u + 262'144'000u);
}

// With D = 4096, F = 14336, G · Dh = 1024 and 2 of 8 experts: a token reads 2 D² + 2 · 1024 · D =
// 41 943 040 weights of attention in 10 240 rows, 2 · 3 D F = 352 321 536 of experts in 65 536
// rows, a router of 8 · D in bf16 and two norms.
TEST_CASE("the bytes of Mixtral are those counted by hand, two experts of eight") {
  const Model half("mixtral-8x7b", 0, QuantFormat::kInt8);
  // 16 · (394 264 576 + 2 · 75 776 + 65 536 + 16 384) + 131 072 000 + 64 000 + 8192
  CHECK(one_token(half, 0).model_bytes() == 6'443'112'960.0);
  CHECK(half.decoder->bytes_per_token() == 6'443'112'960u);
  const Model whole("mixtral-8x7b", 32, QuantFormat::kInt8);
  CHECK(one_token(whole, 0).model_bytes() == 12'755'081'728.0);
  const Model bf16("mixtral-8x7b", 0, QuantFormat::kBF16);
  // (16 · (394 264 576 + 32 768 + 8192) + 131 072 000 + 4096) · 2
  CHECK(one_token(bf16, 0).model_bytes() == 12'879'929'344.0);
  // A step of many tokens reads every expert: 6 · 3 D F more a layer, with their scales.
  const StepTraffic many = step_traffic(cpu(), *half.decoder, DType::kBF16, 64, 0);
  CHECK(many.model_bytes() - one_token(half, 0).model_bytes() ==
        16.0 * 3 * (352'321'536.0 + 2 * 65'536.0));
}

TEST_CASE("the cache of 206 positions and the operations of a token are those counted by hand") {
  const Model llama("llama2-7b", 0, QuantFormat::kBF16);
  const StepTraffic step = one_token(llama, 205);
  // k and v of 206 positions, 32 heads of 128, 2 bytes, in 32 layers
  CHECK(step.cache_bytes() == 2.0 * 206 * 4096 * 2 * 32);
  // Two operations a weight; attention 4 · 206 · 4096 in each layer
  CHECK(step.flops() == 2.0 * (32 * 202'375'168.0 + 131'072'000.0) + 32 * 4.0 * 206 * 4096);
  // Three tokens behind 5 others see 6, 7 and 8 positions; the head serves the last alone.
  const StepTraffic three = step_traffic(cpu(), *llama.decoder, DType::kBF16, 3, 5);
  CHECK(three.flops() ==
        2.0 * (3 * 32 * 202'375'168.0 + 131'072'000.0) + 32 * 4.0 * (6 + 7 + 8) * 4096);
  CHECK(three.cache_bytes() == 2.0 * 8 * 4096 * 2 * 32);

  const Model mixtral("mixtral-8x7b", 0, QuantFormat::kInt8);
  CHECK(one_token(mixtral, 99).cache_bytes() == 2.0 * 100 * 1024 * 2 * 16);
  CHECK(one_token(mixtral, 0).flops() ==
        2.0 * (16 * (394'264'576.0 + 32'768.0) + 131'072'000.0) + 16 * 4.0 * 4096);
}

TEST_CASE("every stage of a step has its own account") {
  const Model llama("llama2-7b", 1, QuantFormat::kBF16);
  const StepTraffic step = one_token(llama, 0);
  double embedding = 0, attention_in = 0, feed_forward = 0;
  for (const StageTraffic& stage : step.stages) {
    if (stage.embedding) embedding += stage.weight_bytes;
    if (stage.stage == "attention_in") attention_in = stage.weight_bytes;
    if (stage.stage == "feed_forward") feed_forward = stage.weight_bytes;
  }
  CHECK(embedding == 4096.0 * 2);
  CHECK(attention_in == (3 * 4096.0 * 4096 + 4096) * 2);
  CHECK(feed_forward == (3 * 4096.0 * 11008 + 4096) * 2);
}

}  // namespace
}  // namespace engine::bench
