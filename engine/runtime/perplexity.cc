#include "engine/runtime/perplexity.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/core/check.h"

namespace engine {

double negative_log_likelihood(std::span<const float> logits, std::int32_t target) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  bool finite = true;
  for (const float logit : logits) {
    sum += std::exp(static_cast<double>(logit) - top);
    finite = finite && std::isfinite(logit);
  }
  if (!finite) return std::numeric_limits<double>::quiet_NaN();
  return top + std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(target)]);
}

Perplexity perplexity(Session& session, std::span<const std::int32_t> ids,
                      std::optional<std::int32_t> bos,
                      const std::function<void(std::int64_t tokens)>& progress) {
  const auto count = static_cast<std::int64_t>(ids.size());
  const std::int64_t window = session.capacity(), vocab = session.vocab();
  const std::int64_t offset = bos ? 0 : 1;  // row i of a window predicts token start + i + offset
  ENGINE_CHECK(count > offset, ErrorKind::kUsage, "perplexity: the text has ", count,
               " tokens, at least ", offset + 1, " are needed");
  double total = 0;
  std::int64_t scored = offset;  // tokens before this one are done
  for (std::int64_t start = 0; scored < count; start += std::max<std::int64_t>(window / 2, 1)) {
    std::vector<std::int32_t> input;
    if (bos) input.push_back(*bos);
    const std::int64_t room = window - static_cast<std::int64_t>(input.size());
    // The last token of the text is only ever a target.
    const std::int64_t take = std::min(room, count - 1 - start);
    input.insert(input.end(), ids.begin() + start, ids.begin() + start + take);
    session.reset();
    session.prefill(input, false, [&](std::int64_t first, std::span<const float> rows) {
      const auto n = static_cast<std::int64_t>(rows.size()) / vocab;
      for (std::int64_t row = 0; row < n; ++row) {
        const std::int64_t target = start + first + row + offset;
        if (target < scored || target >= count) continue;
        const double nll = negative_log_likelihood(
            rows.subspan(static_cast<std::size_t>(row * vocab), static_cast<std::size_t>(vocab)),
            ids[static_cast<std::size_t>(target)]);
        ENGINE_CHECK(std::isfinite(nll), ErrorKind::kNumeric,
                     "perplexity: the logits before token ", target, " are NaN or infinite");
        total += nll;
        scored = target + 1;
      }
    });
    if (progress) progress(scored - offset);
  }
  Perplexity result;
  result.tokens = count - offset;
  result.mean_nll = total / static_cast<double>(result.tokens);
  result.perplexity = std::exp(result.mean_nll);
  return result;
}

}  // namespace engine
