#include "engine/runtime/generate.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "kernels/backend.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// Turns ids into text that may be shown, and hands it on.
class TextStream {
 public:
  TextStream(const Tokenizer* tokenizer, std::span<const std::int32_t> prompt,
             const GenerateOptions& options, const std::function<void(std::string_view)>& emit)
      : tokenizer_(tokenizer), filter_(options.stop), emit_(emit) {
    if (tokenizer == nullptr) return;
    decoder_.emplace(*tokenizer);
    std::vector<std::int32_t> known(prompt.begin(), prompt.end());
    std::erase_if(known, [&](std::int32_t id) { return !tokenizer->contains(id); });
    decoder_->prime(known);
  }

  void push(std::int32_t id) {
    if (!decoder_) {
      if (ids_shown_++ > 0) emit_(" ");
      emit_(std::to_string(id));
    } else if (tokenizer_->contains(id)) {  // a padded vocabulary has ids without a text
      show(filter_.push(decoder_->push(id)));
    }
  }
  void finish() {
    if (!decoder_) return;
    show(filter_.push(decoder_->flush()));
    show(filter_.flush());
  }
  bool stopped() const { return filter_.matched(); }
  std::string take_text() { return std::move(text_); }

 private:
  void show(const std::string& piece) {
    if (piece.empty()) return;
    text_ += piece;
    emit_(piece);
  }

  const Tokenizer* tokenizer_;
  std::optional<StreamDecoder> decoder_;
  StopFilter filter_;
  const std::function<void(std::string_view)>& emit_;
  std::string text_;
  int ids_shown_ = 0;
};

// Bytes that the decode steps read: the weights every time, and the cache as it grows.
double decode_bytes(const Session& session, std::int64_t first_position, std::int64_t steps) {
  const ModelConfig& config = session.model().config();
  const auto n = static_cast<double>(steps);
  const double per_position =
      static_cast<double>(session.memory().kv_cache) / static_cast<double>(session.capacity());
  const double window = static_cast<double>(config.sliding_window.value_or(config.max_positions));
  const double mean_length = static_cast<double>(first_position) + (n + 1) / 2;
  return n * (static_cast<double>(session.model().bytes_per_token()) +
              per_position * std::min(mean_length, window));
}

class Loop {
 public:
  Loop(Session& session, const GenerateOptions& options, std::int64_t prompt_size,
       TextStream& stream)
      : session_(session), options_(options), stream_(stream) {
    // The last token drawn needs no place in the cache.
    budget_ =
        std::min(options.max_new_tokens, session.capacity() - session.position() - prompt_size + 1);
  }

  std::int64_t budget() const { return budget_; }

  // Draws until something ends it; the first draw was issued with the prefill.
  StopReason run(std::vector<std::int32_t>* ids) {
    std::int64_t issued = 1;
    while (static_cast<std::int64_t>(ids->size()) < budget_) {
      if (interrupted()) return StopReason::kInterrupted;
      while (issued < budget_ && session_.pending() <= options_.lookahead) {
        session_.decode();
        ++issued;
      }
      const std::int32_t id = session_.next();
      ids->push_back(id);
      if (ids->size() == 1) first_token_ = Clock::now();
      last_token_ = Clock::now();
      if (std::find(options_.eos_ids.begin(), options_.eos_ids.end(), id) !=
          options_.eos_ids.end()) {
        return StopReason::kEos;
      }
      stream_.push(id);
      if (stream_.stopped()) return StopReason::kStop;
    }
    return StopReason::kLength;
  }

  bool interrupted() const { return options_.interrupt != nullptr && options_.interrupt->load(); }
  Clock::time_point first_token() const { return first_token_; }
  Clock::time_point last_token() const { return last_token_; }

 private:
  Session& session_;
  const GenerateOptions& options_;
  TextStream& stream_;
  std::int64_t budget_ = 0;
  Clock::time_point first_token_, last_token_;
};

}  // namespace

std::string_view stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::kEos:
      return "eos";
    case StopReason::kStop:
      return "stop";
    case StopReason::kLength:
      return "length";
    case StopReason::kInterrupted:
      return "interrupted";
  }
  return "?";
}

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    ENGINE_CHECK(!stop.empty(), ErrorKind::kUsage, "a stop string is empty");
  }
}

std::string StopFilter::push(std::string_view text) {
  if (matched_) return {};
  held_ += text;
  std::size_t end = std::string::npos;
  for (const std::string& stop : stops_) end = std::min(end, held_.find(stop));
  if (end != std::string::npos) {
    matched_ = true;
    held_.resize(end);
    return std::exchange(held_, {});
  }
  // Keep back the longest tail that begins a stop string.
  std::size_t keep = 0;
  for (const std::string& stop : stops_) {
    std::size_t size = std::min(stop.size() - 1, held_.size());
    while (size > keep && held_.compare(held_.size() - size, size, stop, 0, size) != 0) --size;
    keep = std::max(keep, size);
  }
  std::string shown = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return shown;
}

std::string StopFilter::flush() { return matched_ ? std::string() : std::exchange(held_, {}); }

Generation generate(Session& session, const Tokenizer* tokenizer,
                    std::span<const std::int32_t> prompt, const GenerateOptions& options,
                    const std::function<void(std::string_view)>& emit) {
  const auto prompt_size = static_cast<std::int64_t>(prompt.size());
  Generation result;
  TextStream stream(tokenizer, prompt, options, emit);
  Loop loop(session, options, prompt_size, stream);
  const Clock::time_point start = Clock::now();
  Clock::time_point prefilled = start;
  try {
    session.prefill(prompt, loop.budget() > 0);
    prefilled = Clock::now();
    result.stop_reason = loop.budget() > 0 ? loop.run(&result.ids) : StopReason::kLength;
  } catch (const Interrupted&) {
    result.stop_reason = StopReason::kInterrupted;
  }
  stream.finish();
  result.text = stream.take_text();
  if (result.ids.empty()) {
    result.prefill_s = seconds_between(start, prefilled);
    return result;
  }
  result.prefill_s = seconds_between(start, loop.first_token());
  result.decode_s = seconds_between(loop.first_token(), loop.last_token());
  const auto steps = static_cast<std::int64_t>(result.ids.size()) - 1;
  if (steps > 0 && result.decode_s > 0) {
    result.tokens_per_s = static_cast<double>(steps) / result.decode_s;
    result.decode_gb_per_s = decode_bytes(session, prompt_size, steps) / result.decode_s * 1e-9;
  }
  return result;
}

std::uint64_t fnv1a_64(std::span<const std::int32_t> ids) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const std::int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash ^= (static_cast<std::uint32_t>(id) >> shift) & 0xffu;
      hash *= 0x100000001b3u;
    }
  }
  return hash;
}

}  // namespace engine
