#include "tests/support/random_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "tests/support/safetensors_bytes.h"

namespace engine::test {
namespace {

using nlohmann::json;

std::string stored_name(DType dtype) {
  return dtype == DType::kF32 ? "F32" : dtype == DType::kF16 ? "F16" : "BF16";
}

std::size_t stored_size(const std::string& dtype) {
  if (dtype == "F32") return 4;
  if (dtype == "F16" || dtype == "BF16") return 2;
  throw std::runtime_error("no elements of " + dtype + " are made here");
}

// Writes `value` as one element.
void store(const std::string& dtype, float value, char* to) {
  const std::uint16_t half = dtype == "F16" ? float_to_f16(value) : float_to_bf16(value);
  if (dtype == "F32") {
    std::memcpy(to, &value, 4);
  } else {
    std::memcpy(to, &half, 2);
  }
}

std::string utf8(int scalar) {
  if (scalar < 0x80) return {static_cast<char>(scalar)};
  return {static_cast<char>(0xC0 | scalar >> 6), static_cast<char>(0x80 | (scalar & 0x3F))};
}

// The character that GPT-2's byte-level alphabet writes for a byte: itself where it is printable
// Latin-1, else the next unused one from U+0100 on.
std::vector<std::string> byte_alphabet() {
  std::vector<std::string> alphabet;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    alphabet.push_back(utf8(printable ? byte : next++));
  }
  return alphabet;
}

}  // namespace

std::int64_t StoredTensor::size() const {
  std::int64_t count = 1;
  for (const std::int64_t dimension : shape) count *= dimension;
  return count;
}

std::uint64_t StoredTensor::stored_bytes() const {
  return bytes.empty() ? static_cast<std::uint64_t>(size()) * stored_size(dtype) : bytes.size();
}

void StoredTensor::set(std::int64_t index, float value) {
  if (index < 0 || index >= size()) throw std::runtime_error(name + ": no such element");
  store(dtype, value, bytes.data() + static_cast<std::size_t>(index) * stored_size(dtype));
}

void StoredTensor::fill(float value) {
  for (std::int64_t i = 0; i < size(); ++i) set(i, value);
}

RandomCheckpoint::RandomCheckpoint(const CheckpointShape& shape)
    : shape_(shape), random_(shape.seed) {
  config = {{"architectures", {"LlamaForCausalLM"}},
            {"model_type", "llama"},
            {"hidden_size", shape.hidden},
            {"intermediate_size", shape.intermediate},
            {"num_hidden_layers", shape.layers},
            {"num_attention_heads", shape.heads},
            {"num_key_value_heads", shape.kv_heads},
            {"vocab_size", shape.vocab},
            {"max_position_embeddings", shape.positions},
            {"rms_norm_eps", 1e-5},
            {"rope_theta", 10000.0},
            {"hidden_act", "silu"},
            {"tie_word_embeddings", shape.tied},
            {"bos_token_id", 0},
            {"eos_token_id", 1}};
  const std::int64_t d = shape.hidden, f = shape.intermediate, head = d / shape.heads;
  // Every product keeps the size of its input, so that logits are of the order of one.
  const double by_d = std::sqrt(3.0 / static_cast<double>(d));
  const double by_f = std::sqrt(3.0 / static_cast<double>(f));
  add_random("model.embed_tokens.weight", {shape.vocab, d}, 1.0, 0.0);
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    add_random(prefix + "input_layernorm.weight", {d}, 0.2, 1.0);
    add_random(prefix + "self_attn.q_proj.weight", {d, d}, by_d, 0.0);
    add_random(prefix + "self_attn.k_proj.weight", {shape.kv_heads * head, d}, by_d, 0.0);
    add_random(prefix + "self_attn.v_proj.weight", {shape.kv_heads * head, d}, by_d, 0.0);
    add_random(prefix + "self_attn.o_proj.weight", {d, d}, by_d, 0.0);
    add_random(prefix + "post_attention_layernorm.weight", {d}, 0.2, 1.0);
    add_random(prefix + "mlp.gate_proj.weight", {f, d}, by_d, 0.0);
    add_random(prefix + "mlp.up_proj.weight", {f, d}, by_d, 0.0);
    add_random(prefix + "mlp.down_proj.weight", {d, f}, by_f, 0.0);
  }
  add_random("model.norm.weight", {d}, 0.2, 1.0);
  if (!shape.tied) add_random("lm_head.weight", {shape.vocab, d}, by_d, 0.0);

  const auto count = static_cast<int>(tensors.size());
  json map = json::object();
  for (int i = 0; i < count; ++i) {
    StoredTensor& stored = tensors[static_cast<std::size_t>(i)];
    stored.shard = i * shape.shards / count;
    map[stored.name] = shard_name(stored.shard);
  }
  index = {{"metadata", json::object()}, {"weight_map", map}};
  write();
}

// Uniform in [centre − spread, centre + spread): 16 random bits an element, four elements a draw.
void RandomCheckpoint::add_random(const std::string& name, std::vector<std::int64_t> shape,
                                  double spread, double centre) {
  StoredTensor stored = {name, stored_name(shape_.dtype), std::move(shape), "", 0};
  if (shape_.sparse) {
    tensors.push_back(std::move(stored));
    return;
  }
  const std::size_t width = stored_size(stored.dtype);
  const auto count = static_cast<std::size_t>(stored.size());
  stored.bytes.resize(count * width);
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (i % 4 == 0) {
      // xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators").
      random_ ^= random_ >> 12;
      random_ ^= random_ << 25;
      random_ ^= random_ >> 27;
      bits = random_ * 0x2545F4914F6CDD1Du;
    }
    const double unit = static_cast<double>(bits >> (16 * (i % 4)) & 0xFFFF) * 0x1p-15 - 1.0;
    store(stored.dtype, static_cast<float>(centre + spread * unit),
          stored.bytes.data() + i * width);
  }
  tensors.push_back(std::move(stored));
}

StoredTensor& RandomCheckpoint::tensor(const std::string& name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const StoredTensor& t) { return t.name == name; });
  if (found == tensors.end()) throw std::runtime_error("no tensor " + name);
  return *found;
}

void RandomCheckpoint::drop(const std::string& name) {
  const std::int64_t place = &tensor(name) - tensors.data();
  tensors.erase(tensors.begin() + place);
  index["weight_map"].erase(name);
}

StoredTensor& RandomCheckpoint::add(const std::string& name, std::vector<std::int64_t> shape) {
  StoredTensor added = {name, stored_name(shape_.dtype), std::move(shape), "", 0};
  added.bytes.resize(static_cast<std::size_t>(added.size()) * stored_size(added.dtype));
  added.fill(1.0f);
  index["weight_map"][name] = shard_name(0);
  tensors.push_back(std::move(added));
  return tensors.back();
}

std::string RandomCheckpoint::shard_name(int shard) const {
  if (shape_.shards == 1) return "model.safetensors";
  return "model-" + std::to_string(shard + 1) + "-of-" + std::to_string(shape_.shards) +
         ".safetensors";
}

std::string RandomCheckpoint::shard_bytes(int shard) const {
  std::string header = "{", data;
  std::uint64_t begin = 0;
  for (const StoredTensor& stored : tensors) {
    if (stored.shard != shard) continue;
    std::string shape;
    for (const std::int64_t dimension : stored.shape) {
      if (!shape.empty()) shape += ',';
      shape += std::to_string(dimension);
    }
    const std::uint64_t end = begin + stored.stored_bytes();
    header += header.size() > 1 ? "," : "";
    header += header_entry(stored.name, stored.dtype, shape, begin, end);
    data += stored.bytes;
    begin = end;
  }
  return safetensors_bytes(header + "}", data);
}

std::uint64_t RandomCheckpoint::data_bytes() const {
  std::uint64_t total = 0;
  for (const StoredTensor& stored : tensors) total += stored.stored_bytes();
  return total;
}

void RandomCheckpoint::write() const {
  write_file("config.json", config.dump(1));
  if (!tokenizer.empty()) write_file("tokenizer.json", tokenizer);
  for (int shard = 0; shard < shape_.shards; ++shard) {
    const std::string bytes = shard_bytes(shard);
    write_file(shard_name(shard), bytes);
    if (!shape_.sparse) continue;
    std::uint64_t size = bytes.size();
    for (const StoredTensor& stored : tensors) {
      if (stored.shard == shard) size += stored.stored_bytes();
    }
    std::filesystem::resize_file(path() / shard_name(shard), size);
  }
  if (shape_.shards > 1) write_file("model.safetensors.index.json", index.dump(1));
}

void RandomCheckpoint::remove_file(const std::string& name) const {
  if (!std::filesystem::remove(path() / name)) throw std::runtime_error("no file " + name);
}

std::string RandomCheckpoint::byte_tokenizer() {
  const std::vector<std::string> bytes = byte_alphabet();
  json vocab = {{"<s>", 0}, {"</s>", 1}};
  for (int byte = 0; byte < 256; ++byte) vocab[bytes[static_cast<std::size_t>(byte)]] = 2 + byte;
  const std::string space = bytes[' '];
  vocab["he"] = 258;
  vocab["the"] = 259;
  vocab[space + "the"] = 260;
  const auto special = [](int id, const char* content) {
    return json{{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", true}};
  };
  const json part = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json start = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const json text = {
      {"version", "1.0"},
      {"added_tokens", {special(0, "<s>"), special(1, "</s>")}},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "ByteLevel"},
        {"add_prefix_space", false},
        {"trim_offsets", true},
        {"use_regex", true}}},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {start, part}},
        {"pair", {start, part, part}},
        {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {0}}, {"tokens", {"<s>"}}}}}}}},
      {"decoder",
       {{"type", "ByteLevel"},
        {"add_prefix_space", true},
        {"trim_offsets", true},
        {"use_regex", true}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"vocab", vocab},
        {"merges", {"h e", "t he", space + " the"}}}}};
  return text.dump(1);
}

}  // namespace engine::test
