// The generation loop: a prompt in, text out as it is decoded.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/io/tokenizer.h"
#include "engine/runtime/session.h"

namespace engine {

enum class StopReason { kEos, kStop, kLength, kInterrupted };
// "eos", "stop", "length", "interrupted".
std::string_view stop_reason_name(StopReason reason);

struct GenerateOptions {
  std::int64_t max_new_tokens = 200;  // 0: the prompt is prefilled and nothing is drawn
  std::vector<std::int32_t> eos_ids;  // drawing one of them ends the text; empty: none does
  std::vector<std::string> stop;      // the text ends before the first occurrence of any of these
  int lookahead = 0;                  // steps issued before the id of the step before is read
  const std::atomic<bool>* interrupt = nullptr;  // polled between steps; may be null
};

struct Generation {
  std::vector<std::int32_t> ids;  // drawn, an EOS that ended the text included
  std::string text;               // as shown; empty without a tokenizer
  StopReason stop_reason = StopReason::kLength;
  double prefill_s = 0;        // prompt and first token: also the time to the first token
  double decode_s = 0;         // from the first token to the last
  double tokens_per_s = 0;     // tokens after the first ÷ decode_s; 0 where there is none
  double decode_gb_per_s = 0;  // weights and cache read by those steps, 10⁹ bytes a second
};

// Holds back text that may turn out to be the beginning of a stop string.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops);

  // Adds text; returns what may be shown. Once a stop string is complete, matched() is true and
  // nothing more is ever returned.
  std::string push(std::string_view text);
  // The text still held back, at the end of the stream.
  std::string flush();
  bool matched() const { return matched_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool matched_ = false;
};

// Prefills `prompt` and draws up to max_new_tokens, or until the context is full, EOS, a stop
// string or an interrupt. `emit` gets each piece of text as soon as it is final; without a
// tokenizer, the ids in decimal, separated by spaces. Throws what Session and `emit` throw.
Generation generate(Session& session, const Tokenizer* tokenizer,
                    std::span<const std::int32_t> prompt, const GenerateOptions& options,
                    const std::function<void(std::string_view)>& emit);

// The 64-bit FNV-1a hash of the ids, each as four bytes, little-endian.
std::uint64_t fnv1a_64(std::span<const std::int32_t> ids);

}  // namespace engine
