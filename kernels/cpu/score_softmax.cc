// Softmax over rows of scores that lie in memory, after a score function.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/launchers.h"
#include "kernels/cpu/sequences.h"

namespace engine::cpu {

void score_softmax(const Context& context, const ScoreSoftmaxCall& call) {
  const std::int64_t heads = call.x.size(1), rows = call.x.size(2), keys = call.x.size(3);
  const auto widen = context.kernels->to_float[type_index(call.x.dtype)];
  const auto narrow = context.kernels->from_float[type_index(call.x.dtype)];
  constexpr auto kFloats = static_cast<std::int64_t>(Context::kScratchBytes / sizeof(float));
  ENGINE_CHECK(keys <= kFloats, ErrorKind::kUnsupported, "score_softmax: a row of ", keys,
               " scores, the CPU takes ", kFloats);
  const ScoreRule rule = call.rule();
  const int position = position_of(call.position);
  const auto at = [&](const Tensor& t, std::int64_t b, std::int64_t h, std::int64_t i) {
    return t.as<std::byte>() + (b * t.stride(0) + h * t.stride(1) + i * t.stride(2)) *
                                   static_cast<std::int64_t>(dtype_size(t.dtype));
  };
  parallel_for(
      context, call.x.size(0) * heads * rows, 8 * keys, [&](std::int64_t item, int worker) {
        const std::int64_t b = item / rows / heads, h = item / rows % heads, i = item % rows;
        float* x = context.thread_scratch(worker);
        widen(at(call.x, b, h, i), x, keys);
        const int q = position + static_cast<int>(i);
        const KeyInterval seen = visible_keys(rule, q, static_cast<int>(keys));
        float greatest = -std::numeric_limits<float>::infinity(), sum = 0.0f;
        for (int j = seen.begin; j < seen.end; ++j) {
          x[j] = score_value(rule, x[j], static_cast<int>(h), q - j);
          greatest = std::max(greatest, x[j]);
        }
        for (int j = seen.begin; j < seen.end; ++j) sum += x[j] = std::exp(x[j] - greatest);
        for (int j = 0; j < static_cast<int>(keys); ++j) {
          x[j] = j >= seen.begin && j < seen.end ? x[j] / sum : 0.0f;
        }
        narrow(x, at(call.out, b, h, i), keys);
      });
}

}  // namespace engine::cpu
