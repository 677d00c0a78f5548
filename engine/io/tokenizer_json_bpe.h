// The BPE model of a tokenizer.json: vocabulary, merges, and the encoding of one pre-token.
//
// Formula: the text becomes symbols (one per scalar, or per byte under the byte-level alphabet);
// then the adjacent pair of lowest merge rank, leftmost first, is merged until no pair has a rank.
// Pairs wait in a priority queue over a linked list, so that n symbols take O(n log n): without a
// pre-tokenizer the whole text is one pre-token.
//
// Immutable after construction and shared by threads; the scratch of a call belongs to its caller.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/io/tokenizer_json_file.h"

namespace engine {

// Working memory of BpeModel::encode, reused from pre-token to pre-token.
struct BpeScratch {
  struct Symbol {
    int32_t id;
    int32_t previous, next;  // indices of the neighbours, -1 at the ends
  };
  struct Candidate {
    uint64_t priority;  // rank, then position: the least is merged first
    int32_t left, right, merged;
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> queue;
  std::string text;
};

class BpeModel {
 public:
  // Takes the tables out of `file`. With `byte_level` the vocabulary is in the byte-level alphabet
  // and pre-tokens are raw bytes. Throws Error{kModel} for a table that contradicts itself,
  // Error{kUnsupported} for an option that changes the ids and is not there.
  BpeModel(TokenizerFile& file, bool byte_level);

  // Appends the ids of one pre-token.
  void encode(std::string_view pre_token, BpeScratch& scratch, std::vector<int32_t>& out) const;

  // The id of a piece as the file spells it.
  std::optional<int32_t> id_of(std::string_view piece) const;

  // The piece of an id as the file spells it, or null where the id is not in the vocabulary.
  const std::string* piece_of(int32_t id) const;

  // One more than the highest id.
  int32_t size() const { return static_cast<int32_t>(entry_of_id_.size()); }

 private:
  struct MergeSlot {
    uint64_t pair = UINT64_MAX;
    int32_t rank = 0;
    int32_t merged = 0;
  };

  void index_vocabulary(const std::string& name);
  void index_merges(const TokenizerFile& file);
  int32_t merge_part(const std::string& piece, size_t rank, const std::string& name) const;
  MergeSlot& slot_of(uint64_t pair);
  const MergeSlot* find_merge(int32_t left, int32_t right) const;

  void add_symbols(std::string_view pre_token, std::vector<BpeScratch::Symbol>& symbols) const;
  bool add_byte_fallback(std::string_view bytes, std::vector<BpeScratch::Symbol>& symbols) const;
  void merge_symbols(BpeScratch& scratch) const;
  void consider(const std::vector<BpeScratch::Symbol>& symbols, int32_t left,
                std::vector<BpeScratch::Candidate>& queue) const;

  const bool byte_level_;
  bool ignore_merges_ = false;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  int32_t unknown_id_ = -1;  // -1: unknown characters are left out, as the reference does

  std::vector<std::pair<std::string, int32_t>> vocab_;
  std::vector<int32_t> entry_of_id_;         // index into vocab_, -1 for a hole
  std::vector<int32_t> piece_slots_;         // open addressing: index into vocab_, -1 when free
  std::vector<MergeSlot> merge_slots_;       // open addressing by pair
  std::array<int32_t, 256> byte_ids_{};      // of single bytes: alphabet or ASCII; -1 unknown
  std::array<int32_t, 256> fallback_ids_{};  // of <0x00> to <0xFF>; -1 where missing
};

}  // namespace engine
