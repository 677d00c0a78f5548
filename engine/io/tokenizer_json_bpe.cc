#include "engine/io/tokenizer_json_bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "engine/io/byte_level.h"
#include "engine/io/utf8.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

using Symbol = BpeScratch::Symbol;
using Candidate = BpeScratch::Candidate;

size_t hash_text(std::string_view text) { return std::hash<std::string_view>{}(text); }

uint64_t pack(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

// Fibonacci hashing: the high bits of the product are well mixed; `size` is a power of two.
size_t hash_pair(uint64_t pair, size_t size) {
  pair ^= pair >> 29;
  return static_cast<size_t>((pair * 0x9E3779B97F4A7C15ull) >> (64 - std::bit_width(size - 1)));
}

// Least first, as the comparator of a heap (which keeps the greatest on top) wants it.
bool later(const Candidate& a, const Candidate& b) { return a.priority > b.priority; }

// Whether the string member `key` is present and not empty: an option that needs support.
bool is_set(const Json& model, const char* key) {
  const Json* found = json_optional(model, key);
  return found != nullptr && !(found->is_string() && found->string().empty());
}

void append_symbol(int32_t id, std::vector<Symbol>& symbols) {
  const auto index = static_cast<int32_t>(symbols.size());
  symbols.push_back({id, index - 1, index + 1});
}

}  // namespace

BpeModel::BpeModel(TokenizerFile& file, bool byte_level) : byte_level_(byte_level) {
  const std::string where = file.name + ": model";
  const Json& model = json_member(file.root, "model", file.name);
  for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ENGINE_CHECK(!is_set(model, option), ErrorKind::kUnsupported, where, ": ", option,
                 " is not supported");
  }
  const Json* dropout = json_optional(model, "dropout");
  ENGINE_CHECK(dropout == nullptr || (dropout->is_number() && dropout->number() == 0),
               ErrorKind::kUnsupported, where, ": dropout is not supported");
  ENGINE_CHECK(file.has_vocab, ErrorKind::kModel, where, ": \"vocab\" is missing or no object");
  ENGINE_CHECK(file.has_merges, ErrorKind::kModel, where, ": \"merges\" is missing or no list");
  ignore_merges_ = json_bool(model, "ignore_merges", false, where);
  fuse_unknown_ = json_bool(model, "fuse_unk", false, where);
  byte_fallback_ = json_bool(model, "byte_fallback", false, where);

  vocab_ = std::move(file.vocab);
  index_vocabulary(file.name);
  index_merges(file);
  file.merges = {};
  if (is_set(model, "unk_token")) {
    const std::string unknown = json_string(model, "unk_token", where);
    unknown_id_ = id_of(unknown).value_or(-1);
    ENGINE_CHECK(unknown_id_ >= 0, ErrorKind::kModel, where, ": unk_token ", quote(unknown),
                 " is not in the vocabulary");
  }
}

void BpeModel::index_vocabulary(const std::string& name) {
  ENGINE_CHECK(!vocab_.empty(), ErrorKind::kModel, name, ": model.vocab is empty");
  int32_t top = 0;
  for (const auto& [piece, id] : vocab_) top = std::max(top, id);
  entry_of_id_.assign(static_cast<size_t>(top) + 1, -1);
  piece_slots_.assign(std::bit_ceil(vocab_.size() * 2), -1);
  const size_t mask = piece_slots_.size() - 1;
  for (size_t entry = 0; entry < vocab_.size(); ++entry) {
    const auto& [piece, id] = vocab_[entry];
    int32_t& owner = entry_of_id_[static_cast<size_t>(id)];
    ENGINE_CHECK(owner < 0, ErrorKind::kModel, name, ": model.vocab: id ", id, " is both ",
                 quote(vocab_[static_cast<size_t>(std::max(owner, 0))].first), " and ",
                 quote(piece));
    owner = static_cast<int32_t>(entry);
    size_t slot = hash_text(piece) & mask;
    for (; piece_slots_[slot] >= 0; slot = (slot + 1) & mask) {
      ENGINE_CHECK(vocab_[static_cast<size_t>(piece_slots_[slot])].first != piece,
                   ErrorKind::kModel, name, ": model.vocab: duplicate key ", quote(piece));
    }
    piece_slots_[slot] = static_cast<int32_t>(entry);
  }
  for (size_t byte = 0; byte < 256; ++byte) {
    std::string piece;
    const auto value = static_cast<uint8_t>(byte);
    if (byte_level_)
      append_utf8(byte_level_char(value), piece);
    else
      piece = static_cast<char>(value);  // past ASCII no piece, so that it stays unknown
    byte_ids_[byte] = id_of(piece).value_or(-1);
    constexpr const char* kDigits = "0123456789ABCDEF";
    const std::string fallback = {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
    fallback_ids_[byte] = id_of(fallback).value_or(-1);
  }
}

int32_t BpeModel::merge_part(const std::string& piece, size_t rank, const std::string& name) const {
  const std::optional<int32_t> id = id_of(piece);
  ENGINE_CHECK(id.has_value(), ErrorKind::kModel, name, ": model.merges: entry ", rank,
               " needs the piece ", quote(piece), ", which is not in the vocabulary");
  return *id;
}

BpeModel::MergeSlot& BpeModel::slot_of(uint64_t pair) {
  size_t slot = hash_pair(pair, merge_slots_.size());
  while (merge_slots_[slot].pair != UINT64_MAX && merge_slots_[slot].pair != pair) {
    slot = (slot + 1) & (merge_slots_.size() - 1);
  }
  return merge_slots_[slot];
}

void BpeModel::index_merges(const TokenizerFile& file) {
  ENGINE_CHECK(file.merges.size() < size_t{INT32_MAX} / 2, ErrorKind::kModel, file.name,
               ": model.merges: too many entries");
  merge_slots_.resize(std::bit_ceil(std::max<size_t>(file.merges.size() * 3 / 2, 2)));
  std::string joined;
  for (size_t rank = 0; rank < file.merges.size(); ++rank) {
    const auto& [left, right] = file.merges[rank];
    joined.assign(left).append(right);
    const uint64_t pair =
        pack(merge_part(left, rank, file.name), merge_part(right, rank, file.name));
    // A pair that comes twice has its last rank, as in the reference.
    slot_of(pair) = {pair, static_cast<int32_t>(rank), merge_part(joined, rank, file.name)};
  }
}

const BpeModel::MergeSlot* BpeModel::find_merge(int32_t left, int32_t right) const {
  const uint64_t pair = pack(left, right);
  size_t slot = hash_pair(pair, merge_slots_.size());
  for (; merge_slots_[slot].pair != UINT64_MAX; slot = (slot + 1) & (merge_slots_.size() - 1)) {
    if (merge_slots_[slot].pair == pair) return &merge_slots_[slot];
  }
  return nullptr;
}

std::optional<int32_t> BpeModel::id_of(std::string_view piece) const {
  const size_t mask = piece_slots_.size() - 1;
  for (size_t slot = hash_text(piece) & mask; piece_slots_[slot] >= 0; slot = (slot + 1) & mask) {
    const auto& [text, id] = vocab_[static_cast<size_t>(piece_slots_[slot])];
    if (text == piece) return id;
  }
  return std::nullopt;
}

const std::string* BpeModel::piece_of(int32_t id) const {
  if (id < 0 || id >= size()) return nullptr;
  const int32_t entry = entry_of_id_[static_cast<size_t>(id)];
  return entry < 0 ? nullptr : &vocab_[static_cast<size_t>(entry)].first;
}

bool BpeModel::add_byte_fallback(std::string_view bytes, std::vector<Symbol>& symbols) const {
  const auto id = [this](char c) { return fallback_ids_[static_cast<uint8_t>(c)]; };
  if (!std::all_of(bytes.begin(), bytes.end(), [&id](char c) { return id(c) >= 0; })) return false;
  for (const char c : bytes) append_symbol(id(c), symbols);
  return true;
}

void BpeModel::add_symbols(std::string_view pre_token, std::vector<Symbol>& symbols) const {
  bool unknown_open = false;  // an unknown token waits, so that further unknowns can fuse with it
  const auto close_unknown = [&] {
    if (unknown_open) append_symbol(unknown_id_, symbols);
    unknown_open = false;
  };
  while (!pre_token.empty()) {
    // An invalid byte is a character of its own: no piece holds it, byte fallback may.
    uint32_t length = 1;
    int32_t id = byte_ids_[static_cast<uint8_t>(pre_token[0])];
    if (!byte_level_ && static_cast<uint8_t>(pre_token[0]) >= 0x80) {
      const Utf8Scalar scalar = read_utf8(pre_token);
      if (scalar.valid) {
        length = scalar.length;
        id = id_of(pre_token.substr(0, length)).value_or(-1);
      }
    }
    const std::string_view character = pre_token.substr(0, length);
    pre_token.remove_prefix(length);
    if (id >= 0) {
      close_unknown();
      append_symbol(id, symbols);
    } else if (!(byte_fallback_ && add_byte_fallback(character, symbols)) && unknown_id_ >= 0) {
      if (!fuse_unknown_) close_unknown();
      unknown_open = true;
    }
  }
  close_unknown();
  if (!symbols.empty()) symbols.back().next = -1;
}

void BpeModel::consider(const std::vector<Symbol>& symbols, int32_t left,
                        std::vector<Candidate>& queue) const {
  if (left < 0) return;
  const Symbol& first = symbols[static_cast<size_t>(left)];
  if (first.next < 0) return;
  const Symbol& second = symbols[static_cast<size_t>(first.next)];
  const MergeSlot* merge = find_merge(first.id, second.id);
  if (merge == nullptr) return;
  const uint64_t priority = pack(merge->rank, left);
  queue.push_back({priority, first.id, second.id, merge->merged});
}

void BpeModel::merge_symbols(BpeScratch& scratch) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<Candidate>& queue = scratch.queue;
  queue.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    consider(symbols, static_cast<int32_t>(i), queue);
  }
  std::make_heap(queue.begin(), queue.end(), later);
  const auto push = [&](int32_t left) {
    const size_t before = queue.size();
    consider(symbols, left, queue);
    if (queue.size() > before) std::push_heap(queue.begin(), queue.end(), later);
  };
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), later);
    const Candidate best = queue.back();
    queue.pop_back();
    const auto position = static_cast<int32_t>(best.priority & UINT32_MAX);
    Symbol& left = symbols[static_cast<size_t>(position)];
    // A symbol only ever grows, so a pair that is no longer there is told by its ids.
    if (left.id != best.left || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (right.id != best.right) continue;
    left.id = best.merged;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = position;
    push(left.previous);
    push(position);
  }
}

void BpeModel::encode(std::string_view pre_token, BpeScratch& scratch,
                      std::vector<int32_t>& out) const {
  ENGINE_CHECK(pre_token.size() < size_t{INT32_MAX}, ErrorKind::kUsage, "a text of ",
               pre_token.size(), " bytes is too long to be tokenized");
  if (ignore_merges_) {
    std::string_view whole = pre_token;
    if (byte_level_) {
      scratch.text.clear();
      for (const char c : pre_token) {
        append_utf8(byte_level_char(static_cast<uint8_t>(c)), scratch.text);
      }
      whole = scratch.text;
    }
    if (const std::optional<int32_t> id = id_of(whole)) {
      out.push_back(*id);
      return;
    }
  }
  scratch.symbols.clear();
  add_symbols(pre_token, scratch.symbols);
  merge_symbols(scratch);
  for (const Symbol& symbol : scratch.symbols) {
    if (symbol.id >= 0) out.push_back(symbol.id);
  }
}

}  // namespace engine
