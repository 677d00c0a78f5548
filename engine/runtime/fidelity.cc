#include "engine/runtime/fidelity.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/core/check.h"

namespace engine {
namespace {

constexpr std::int64_t kLogitsBytes = 64ll << 20;  // most logits of the reference kept on the host
constexpr std::int64_t kMostRows = 512;

struct Row {
  std::size_t top = 0;  // the lowest index of the largest logit
  double largest = -std::numeric_limits<double>::infinity();
  double second = -std::numeric_limits<double>::infinity();  // the largest of the others
  double log_sum = 0;                                        // ln Σ exp(logit)
};

Row summarise(std::span<const float> logits) {
  Row row;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const auto logit = static_cast<double>(logits[i]);
    ENGINE_CHECK(std::isfinite(logit), ErrorKind::kNumeric, "fidelity: logit ", i, " is ", logit);
    if (logit > row.largest) {
      row.second = row.largest;
      row.largest = logit;
      row.top = i;
    } else {
      row.second = std::max(row.second, logit);
    }
  }
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - row.largest);
  row.log_sum = row.largest + std::log(sum);
  return row;
}

// Appends `piece` to both sequences and adds the rows from the window's row `first` on.
void compare_piece(Session& reference, Session& candidate, std::span<const std::int32_t> piece,
                   std::int64_t first, Fidelity& result) {
  const auto width = static_cast<std::size_t>(reference.vocab());
  const std::int64_t begin = reference.position();
  std::vector<float> expected;
  reference.prefill(piece, false, [&](std::int64_t, std::span<const float> rows) {
    expected.insert(expected.end(), rows.begin(), rows.end());
  });
  candidate.prefill(piece, false, [&](std::int64_t row, std::span<const float> rows) {
    for (std::size_t at = 0; at < rows.size(); at += width, ++row) {
      if (row < first) continue;
      const auto same = static_cast<std::size_t>(row - begin) * width;
      result.add(std::span<const float>(expected).subspan(same, width), rows.subspan(at, width));
    }
  });
}

double share(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 1.0;
}

}  // namespace

double Fidelity::top1_agreement() const { return share(agreed, positions); }
double Fidelity::sure_agreement() const { return share(sure_agreed, sure_positions); }

void Fidelity::add(std::span<const float> reference, std::span<const float> candidate) {
  ENGINE_REQUIRE(reference.size() == candidate.size() && !reference.empty(), "fidelity of ",
                 reference.size(), " and ", candidate.size(), " logits");
  const Row p = summarise(reference), q = summarise(candidate);
  double kl = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double log_p = static_cast<double>(reference[i]) - p.log_sum;
    const double log_q = static_cast<double>(candidate[i]) - q.log_sum;
    kl += std::exp(log_p) * (log_p - log_q);
  }
  kl = std::max(kl, 0.0);  // rounding can take a divergence of 0 below it
  const bool sure = p.largest - p.second >= kMargin, agrees = p.top == q.top;
  ++positions;
  sure_positions += sure ? 1 : 0;
  agreed += agrees ? 1 : 0;
  sure_agreed += sure && agrees ? 1 : 0;
  mean_kl += (kl - mean_kl) / static_cast<double>(positions);
  largest_kl = std::max(largest_kl, kl);
}

Fidelity fidelity(Session& reference, Session& candidate, std::span<const std::int32_t> ids,
                  std::optional<std::int32_t> bos,
                  const std::function<void(std::int64_t tokens)>& progress) {
  ENGINE_REQUIRE(&reference != &candidate, "fidelity of a session to itself");
  const auto count = static_cast<std::int64_t>(ids.size());
  const std::int64_t vocab = reference.vocab();
  const std::int64_t window = std::min(reference.capacity(), candidate.capacity());
  const std::int64_t offset = bos ? 0 : 1;  // row i of a window predicts token start + i + offset
  ENGINE_CHECK(count > offset, ErrorKind::kUsage, "fidelity: the text has ", count,
               " tokens, at least ", offset + 1, " are needed");
  ENGINE_CHECK(candidate.vocab() == vocab, ErrorKind::kUsage, "fidelity: vocabularies of ", vocab,
               " and ", candidate.vocab(), " tokens");
  const std::int64_t row_bytes = vocab * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t most = std::clamp(kLogitsBytes / row_bytes, std::int64_t{1}, kMostRows);

  Fidelity result;
  std::int64_t compared = offset;  // predictions of tokens before this one are done
  for (std::int64_t start = 0; compared < count; start += std::max<std::int64_t>(window / 2, 1)) {
    std::vector<std::int32_t> input;
    if (bos) input.push_back(*bos);
    const std::int64_t room = window - static_cast<std::int64_t>(input.size());
    // The last token of the text is only ever predicted.
    const std::int64_t take = std::min(room, count - 1 - start);
    input.insert(input.end(), ids.begin() + start, ids.begin() + start + take);
    reference.reset();
    candidate.reset();
    const auto size = static_cast<std::int64_t>(input.size());
    // Piece by piece, since the logits of a whole window can be gigabytes.
    for (std::int64_t begin = 0; begin < size; begin += most) {
      const auto piece = std::span<const std::int32_t>(input).subspan(
          static_cast<std::size_t>(begin), static_cast<std::size_t>(std::min(most, size - begin)));
      compare_piece(reference, candidate, piece, compared - start - offset, result);
      compared =
          std::max(compared, start + begin + static_cast<std::int64_t>(piece.size()) + offset);
      if (progress) progress(compared - offset);
    }
  }
  return result;
}

}  // namespace engine
