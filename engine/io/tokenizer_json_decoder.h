// Decoders of a tokenizer.json: Sequence, Replace, ByteFallback, Fuse, Strip, Metaspace, ByteLevel,
// or none (tokens joined by spaces, as the reference does).
//
// Each is a stage that takes the text of one token and passes on what no later token can change, so
// that a stream and a whole sequence are decoded by the same code. After Fuse or ByteLevel all that
// follows sees one long token. A run of byte tokens that is not valid UTF-8 as a whole becomes one
// U+FFFD per byte (ByteFallback), so a run is held back until it ends; bytes of a byte-level
// alphabet are decoded one by one, an invalid sequence is one U+FFFD.
//
// The Decoder is immutable and shared; the chain of stages it makes belongs to one decoding.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/io/tokenizer_json_file.h"

namespace engine {

// Where a stage passes its texts.
using TextSink = std::function<void(std::string)>;

class DecodeStage {
 public:
  virtual ~DecodeStage() = default;
  virtual void push(std::string token, const TextSink& next) = 0;
  virtual void finish(const TextSink& next) = 0;
};

// The stages of one decoding, in order.
class DecodeChain {
 public:
  explicit DecodeChain(std::vector<std::unique_ptr<DecodeStage>> stages);
  void push(std::string token, std::string& out) { feed(0, std::move(token), out); }
  void finish(std::string& out);

 private:
  void feed(size_t stage, std::string token, std::string& out);
  TextSink after(size_t stage, std::string& out);

  std::vector<std::unique_ptr<DecodeStage>> stages_;
};

class Decoder {
 public:
  // Reads `decoder` of the document. Error{kUnsupported} names a component that is not there.
  explicit Decoder(const TokenizerFile& file);

  DecodeChain start() const;

 private:
  using MakeStage = std::function<std::unique_ptr<DecodeStage>()>;

  void read_steps(const Json& component, const std::string& where);

  std::vector<MakeStage> steps_;
  bool fused_ = false;  // while reading: the steps so far leave one token
};

}  // namespace engine
