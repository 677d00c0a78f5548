#include "kernels/cases/cases.h"

#include <algorithm>
#include <initializer_list>
#include <sstream>
#include <utility>

namespace engine::cases {
namespace {

constexpr EmbedCase kEmbedCases[] = {
    {1, 1, 1},
    {1, 8, 3},
    {3, 43, 997},
    {2, 172, 512},
    {17, 344, 512},
    {129, 64, 512},
    {300, 96, 997},
    {7, 4096, 997},
    {8, 128, 7},
    {1, 4096, 32000, true},
    {64, 4096, 32000, true},
};

constexpr RowsCase kRowsCases[] = {
    {1, 1},    {1, 2},     {2, 7},     {3, 43},   {1, 64},    {7, 172},
    {17, 344}, {8, 997},   {129, 8},   {300, 96}, {64, 128},  {1, 4096},
    {3, 4096}, {2, 11008}, {64, 4096}, {1, 8192}, {1, 16384},
};

constexpr LinearCase kLinearCases[] = {
    // One of everything, odd sizes, and sizes around vectors and tiles.
    {1, 1, 1},
    {1, 997, 1},
    {3, 1, 43},
    {1, 43, 43},
    {2, 7, 172},
    {1, 344, 172},
    {3, 997, 344},
    {7, 128, 64},
    {8, 64, 344},
    {17, 172, 43},
    {16, 16, 16},
    {64, 65, 63},
    {129, 43, 96},
    {300, 33, 128},
    {1, 64, 997},
    {129, 128, 256},
    {64, 256, 172},
    {300, 172, 344},
    {5, 130, 129},
    {33, 96, 8},
    {4, 20, 24},
    {9, 257, 511},
    {32, 512, 1024},
    {128, 128, 128},
    // Long rows that end within a slot of the step kernel's ring, behind one and two whole rounds.
    {1, 200, 2056},
    {1, 300, 4104},
    {1, 100, 5000},
    // Rows of whole parts of a slot, of which not every group of its warps has as many.
    {1, 150, 4352},
    {1, 40, 16384},
    // As many tokens as it takes for int8 weights to be widened; below, in pieces of both sides.
    {515, 24, 32},
    {600, 67, 16},
    // Real models: the projections of LLaMA 7B and Mistral 7B, and the head.
    {1, 4096, 4096},
    {1, 6144, 4096},
    {2, 4096, 4096},
    {1, 22016, 4096, true},
    {1, 4096, 11008, true},
    {3, 4096, 11008, true},
    {700, 24840, 4096, true},
    {8, 6144, 4096, true},
    {17, 4096, 4096, true},
    {64, 4096, 11008, true},
    {129, 4096, 4096, true},
    {300, 2048, 4096, true},
    {1, 32000, 4096, true},
};

constexpr RopeCase kRopeCases[] = {
    {1, 1, 2, 0},     {1, 1, 8, 1},     {3, 5, 24, 255},    {2, 8, 64, 256},
    {7, 3, 80, 0},    {17, 4, 96, 999}, {1, 32, 128, 1000}, {64, 8, 128, 3},
    {2, 2, 256, 100}, {129, 6, 20, 17}, {300, 2, 8, 0},     {8, 32, 128, 65000},
};

constexpr KvAppendCase kKvAppendCases[] = {
    // The last two run past the capacity, which drops rows.
    {1, 1, 2, 1, 0},     {1, 4, 8, 5, 4},        {3, 2, 24, 300, 255},    {2, 8, 64, 300, 256},
    {7, 3, 80, 7, 0},    {17, 1, 96, 1100, 999}, {1, 8, 128, 1100, 1000}, {129, 2, 20, 200, 17},
    {300, 2, 8, 300, 0}, {1, 2, 256, 4, 3},      {8, 2, 128, 10, 5},      {3, 4, 43, 6, 6},
};

constexpr AttentionCase kAttentionCases[] = {
    // One token: every head size, positions around 0 and the usual split sizes; MHA, GQA, MQA.
    {1, 1, 1, 1, 0},
    {1, 4, 4, 8, 0},
    {1, 4, 2, 8, 1},
    {1, 6, 2, 24, 255},
    {1, 8, 1, 64, 256},
    {1, 5, 5, 80, 257},
    {1, 6, 3, 96, 63},
    {1, 32, 8, 128, 1000, 24},
    {1, 32, 32, 128, 511},
    {1, 2, 1, 256, 1025, 7},
    {1, 3, 1, 20, 31, 300},
    {1, 8, 2, 128, 2047},
    {1, 71, 1, 64, 300},
    // Many tokens from an empty cache.
    {2, 4, 4, 8, 0},
    {3, 6, 2, 24, 0},
    {7, 8, 1, 64, 0, 5},
    {8, 4, 2, 80, 0},
    {17, 3, 3, 96, 0},
    {64, 4, 2, 128, 0},
    {129, 2, 1, 64, 0, 1},
    {300, 2, 2, 128, 0, 100},
    {65, 2, 1, 256, 0},
    {300, 4, 2, 8, 0},
    // Many tokens behind others: chunks of a long prompt.
    {2, 4, 2, 8, 1},
    {3, 4, 4, 43, 255},
    {7, 8, 2, 64, 256, 57},
    {8, 6, 2, 24, 1000},
    {17, 8, 1, 128, 1003},
    {64, 2, 1, 80, 255},
    {129, 4, 2, 96, 127, 33},
    {300, 3, 1, 64, 1001},
    // Around the edges of tiles of 64, 128 and 192 queries and 128 keys.
    {9, 8, 1, 64, 0},
    {9, 4, 2, 128, 230},
    {63, 4, 2, 128, 176, 40},
    {65, 2, 1, 128, 734, 1},
    {127, 2, 1, 128, 0, 5},
    {128, 2, 1, 64, 1},
    {193, 2, 2, 64, 30, 3, 100},
    {257, 8, 1, 128, 0, 300},
    {300, 2, 1, 128, 500, 7, 200},
    {300, 2, 1, 128, 40, 0, 5},
    {130, 2, 2, 128, 0, 2, 0, false},
    {100, 2, 1, 64, 3996, 50},
    {130, 2, 1, 192, 60, 9},
    {129, 2, 1, 160, 200, 0, 70},
    {200, 2, 2, 256, 65, 3},
    {140, 2, 1, 224, 300, 1, 100},
    {70, 2, 1, 256, 10, 0, 0, false},
    {300, 71, 1, 64, 0, 0, 0, true, true},
    {257, 64, 8, 128, 20, 0, 0, true, true},
    // Windows: shorter than the step, than the cache, longer than both.
    {1, 4, 2, 64, 1000, 0, 1},
    {1, 4, 2, 64, 1000, 9, 255},
    {7, 4, 2, 24, 300, 0, 3},
    {64, 2, 2, 128, 256, 0, 64},
    {129, 4, 1, 8, 0, 0, 50},
    {300, 2, 1, 64, 700, 0, 129},
    {17, 2, 1, 64, 100, 0, 4096},
    // Not causal, with and without a window.
    {1, 2, 2, 64, 0, 0, 0, false},
    {7, 4, 2, 24, 0, 3, 0, false},
    {64, 4, 4, 128, 0, 0, 0, false},
    {129, 2, 1, 80, 100, 0, 0, false},
    {17, 2, 2, 8, 40, 0, 5, false},
    // Real models and long caches.
    {1, 32, 8, 128, 8191, 0, 0, true, true},
    {1, 32, 32, 128, 4000, 96, 0, true, true},
    {300, 32, 8, 128, 0, 0, 0, true, true},
    {129, 32, 8, 128, 1000, 24, 0, true, true},
    {1, 1, 1, 64, 65599, 400},
    {3, 1, 1, 128, 65597, 0, 0, true, true},
    {1, 32, 8, 128, 9000, 0, 4096, true, true},
};

constexpr BlockCase kBlockCases[] = {
    {1, 8, 1, 1, 8, 1, 0},
    {1, 64, 8, 4, 8, 172, 5},
    {3, 64, 8, 4, 8, 172, 0},
    {7, 43, 2, 1, 24, 43, 255},
    {17, 96, 3, 3, 32, 344, 256},
    {2, 172, 4, 2, 80, 997, 1000},
    {129, 64, 4, 1, 64, 96, 3},
    {8, 512, 4, 2, 128, 1376, 0},
    {64, 344, 2, 2, 172, 256, 17},
    {300, 128, 2, 1, 96, 172, 0},
    {520, 32, 2, 1, 16, 48, 0},
    {514, 16, 1, 1, 16, 12, 9},
    {1, 1024, 8, 2, 128, 2816, 77},
    {1, 4096, 32, 8, 128, 14336, 1000, true},
    {1, 4096, 32, 32, 128, 11008, 0, true},
    {8, 4096, 32, 8, 128, 11008, 64, true},
};

constexpr MoeCase kMoeCases[] = {
    // One of everything, then Mixtral's count, an odd one, and all experts chosen.
    {1, 1, 1, 1, 1},
    {1, 8, 2, 64, 172},
    {2, 8, 2, 43, 97},
    {7, 8, 2, 96, 128},
    {64, 8, 2, 128, 344},
    {300, 8, 2, 64, 96},
    {1, 5, 3, 172, 43},
    {2, 5, 3, 64, 64},
    {7, 5, 3, 80, 100},
    {64, 5, 3, 43, 172},
    {300, 5, 3, 96, 80},
    {1, 4, 4, 64, 43},
    {3, 4, 4, 128, 96},
    {64, 3, 3, 64, 64},
    {17, 1, 1, 96, 172},
    // Many small experts, most of them empty at first.
    {1, 64, 6, 128, 64},
    {33, 64, 6, 128, 64},
    // One token, of sizes by eights, as a recorded step has them: few experts and many, a width
    // that no warp's share divides, and one of more than a vector a thread of the step kernel.
    {1, 8, 2, 96, 64},
    {1, 5, 3, 1032, 72},
    {1, 9, 2, 80, 64},
    {1, 3, 2, 4104, 32},
    // A width of one slot of the step kernel's ring for each group of warps.
    {1, 5, 3, 4096, 40},
    {129, 17, 4, 43, 33},
    // All tokens to one expert, and to the same few.
    {7, 8, 1, 64, 96, true},
    {64, 8, 2, 128, 172, true},
    {300, 5, 1, 64, 128, true},
    {300, 5, 3, 43, 64, true},
    // Mixtral 8x7B.
    {1, 8, 2, 4096, 14336, false, true},
    {2, 8, 2, 4096, 14336, false, true},
    {7, 8, 2, 4096, 14336, false, true},
    {64, 8, 2, 4096, 14336, false, true},
    {64, 8, 2, 4096, 14336, true, true},
};

constexpr SampleCase kSampleCases[] = {{1}, {2}, {50}, {512}, {997}, {1000}, {32000}, {128256}};

std::int64_t size_of(DType dtype) { return static_cast<std::int64_t>(dtype_size(dtype)); }

// "T3 K43" of ("T", 3), ("K", 43).
struct Part {
  const char* letter;
  std::int64_t value;
};
std::string join(std::initializer_list<Part> parts) {
  std::ostringstream text;
  const char* separator = "";
  for (const Part& part : parts) {
    text << std::exchange(separator, " ") << part.letter << part.value;
  }
  return text.str();
}

}  // namespace

std::span<const EmbedCase> embed_cases() { return kEmbedCases; }
std::span<const RowsCase> rows_cases() { return kRowsCases; }
std::span<const LinearCase> linear_cases() { return kLinearCases; }
std::span<const RopeCase> rope_cases() { return kRopeCases; }
std::span<const KvAppendCase> kv_append_cases() { return kKvAppendCases; }
std::span<const AttentionCase> attention_cases() { return kAttentionCases; }
std::span<const BlockCase> block_cases() { return kBlockCases; }
std::span<const MoeCase> moe_cases() { return kMoeCases; }
std::span<const SampleCase> sample_cases() { return kSampleCases; }

std::string EmbedCase::name() const {
  return join({{"T", tokens}, {"D", width}, {"V", vocabulary}});
}
Cost EmbedCase::cost(DType dtype) const { return {tokens * (2 * width * size_of(dtype) + 4), 0}; }

std::string RowsCase::name() const { return join({{"T", tokens}, {"D", width}}); }
Cost RowsCase::rmsnorm_cost(DType dtype) const {
  return {(2 * tokens + 1) * width * size_of(dtype), 4 * tokens * width};
}
Cost RowsCase::add_cost(DType dtype) const {
  return {3 * tokens * width * size_of(dtype), tokens * width};
}
Cost RowsCase::silu_mul_cost(DType dtype) const {
  return {3 * tokens * width * size_of(dtype), 5 * tokens * width};
}

std::string LinearCase::name() const {
  return join({{"T", tokens}, {"N", outputs}, {"K", inputs}});
}
Cost LinearCase::cost(DType dtype, bool f32_out, bool residual) const {
  const std::int64_t results = tokens * outputs, out_size = f32_out ? 4 : size_of(dtype);
  return {(outputs * inputs + tokens * inputs) * size_of(dtype) +
              results * out_size * (residual ? 2 : 1),
          2 * results * inputs + (residual ? results : 0)};
}

std::string RopeCase::name() const {
  return join({{"T", tokens}, {"H", heads}, {"Dh", head_size}, {"at ", position}});
}
Cost RopeCase::cost(DType dtype) const {
  const std::int64_t elements = tokens * heads * head_size;
  return {2 * elements * size_of(dtype) + tokens * head_size * 4, 3 * elements};
}

std::string KvAppendCase::name() const {
  return join(
      {{"T", tokens}, {"G", kv_heads}, {"Dh", head_size}, {"C", capacity}, {"at ", position}});
}
Cost KvAppendCase::cost(DType dtype) const {
  const std::int64_t kept = std::clamp<std::int64_t>(capacity - position, 0, tokens);
  return {4 * kept * kv_heads * head_size * size_of(dtype), 0};
}

std::string AttentionCase::name() const {
  return join({{"T", tokens},
               {"H", heads},
               {"G", kv_heads},
               {"Dh", head_size},
               {"at ", position},
               {"bound ", bound()},
               {"window ", window}}) +
         (causal ? "" : " not causal");
}
Cost AttentionCase::cost(DType dtype) const {
  std::int64_t pairs = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t end = causal ? position + t + 1 : position + tokens;
    const std::int64_t begin =
        window > 0 ? std::max<std::int64_t>(0, position + t - window + 1) : 0;
    pairs += end - begin;
  }
  const std::int64_t first = window > 0 ? std::max<std::int64_t>(0, position - window + 1) : 0;
  const std::int64_t keys = position + tokens - first;
  return {2 * (tokens * heads + keys * kv_heads) * head_size * size_of(dtype),
          4 * pairs * heads * head_size};
}

std::string BlockCase::name() const {
  return join({{"T", tokens},
               {"D", width},
               {"H", heads},
               {"G", kv_heads},
               {"Dh", head_size},
               {"F", inner},
               {"at ", position}});
}
Cost BlockCase::attention_in_cost(DType dtype) const {
  const std::int64_t joined = (heads + 2 * kv_heads) * head_size;
  return {(width + joined * width + tokens * (width + joined)) * size_of(dtype) +
              tokens * head_size * 4,
          2 * tokens * joined * width + 4 * tokens * width +
              3 * tokens * (heads + kv_heads) * head_size};
}
Cost BlockCase::attention_out_cost(DType dtype) const {
  const std::int64_t inputs = heads * head_size;
  return {(width * inputs + tokens * (inputs + 2 * width)) * size_of(dtype),
          2 * tokens * width * inputs + tokens * width};
}
Cost BlockCase::feed_forward_cost(DType dtype) const {
  return {(width + 3 * width * inner + 2 * tokens * width) * size_of(dtype),
          6 * tokens * width * inner + 5 * tokens * (width + inner)};
}

namespace {

std::int64_t matrix_bytes(std::int64_t rows, std::int64_t columns, QuantFormat format) {
  const FormatInfo& info = format_info(format);
  return rows * static_cast<std::int64_t>(info.row_bytes(static_cast<std::size_t>(columns)) +
                                          info.scale_bytes);
}

}  // namespace

std::string MoeCase::name() const {
  return join({{"T", tokens}, {"E", experts}, {"S", top_k}, {"D", width}, {"F", inner}}) +
         (same_experts ? " same experts" : "");
}
std::int64_t MoeCase::touched() const {
  return same_experts ? top_k : std::min(experts, tokens * top_k);
}
Cost MoeCase::route_cost() const {
  return {tokens * (experts + 2 * top_k) * 4, tokens * (4 * experts + 2 * top_k)};
}
Cost MoeCase::up_cost(DType dtype, QuantFormat format) const {
  const std::int64_t rows = tokens * top_k, outputs = 2 * inner;
  return {touched() * matrix_bytes(outputs, width, format) +
              (tokens * width + rows * outputs) * size_of(dtype) + rows * 4,
          2 * rows * outputs * width};
}
Cost MoeCase::down_cost(DType dtype, QuantFormat format) const {
  const std::int64_t rows = tokens * top_k;
  return {touched() * matrix_bytes(width, inner, format) + rows * (inner + width) * size_of(dtype) +
              rows * 4,
          2 * rows * width * inner};
}
Cost MoeCase::combine_cost(DType dtype) const {
  return {tokens * ((top_k + 2) * width * size_of(dtype) + top_k * 4), 2 * tokens * top_k * width};
}
Cost MoeCase::feed_forward_cost(DType dtype, QuantFormat format) const {
  // x in and out, the norm, the router, and the matrices of the touched experts.
  return {
      (2 * tokens + 1 + experts) * width * size_of(dtype) +
          touched() * (matrix_bytes(2 * inner, width, format) + matrix_bytes(width, inner, format)),
      4 * tokens * width + 2 * tokens * experts * width + route_cost().flops +
          up_cost(dtype, format).flops + 5 * tokens * top_k * inner +
          down_cost(dtype, format).flops + combine_cost(dtype).flops};
}

std::string SampleCase::name() const { return join({{"V", vocabulary}}); }
Cost SampleCase::cost() const { return {vocabulary * 5, 0}; }

}  // namespace engine::cases
