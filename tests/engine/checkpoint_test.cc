// Checkpoint directories: which files are read, and what index and shards must agree on.
#include "engine/io/checkpoint.h"

#include <doctest/doctest.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/outcome.h"
#include "tests/support/paths.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using test::Outcome;
using test::outcome_of;
using test::TempDir;

// A file that holds U8 tensors of two bytes, each made of its name's first letter.
std::string file_of(const std::vector<std::string>& names) {
  std::string header = "{";
  std::string data;
  for (const std::string& name : names) {
    header += data.empty() ? "" : ",";
    header += test::header_entry(name, "U8", "2", data.size(), data.size() + 2);
    data += std::string(2, name[0]);
  }
  return test::safetensors_bytes(header + "}", data);
}

std::string index_of(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string map;
  for (const auto& [tensor, shard] : entries) {
    map += concat(map.empty() ? "" : ",", '"', tensor, "\":\"", shard, '"');
  }
  return "{\"weight_map\":{" + map + "}}";
}

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kOne = "model-00001-of-00002.safetensors";
constexpr const char* kTwo = "model-00002-of-00002.safetensors";

// Two shards, a and b in the first, c in the second, and their index.
void write_sharded(const TempDir& dir) {
  dir.write(kOne, file_of({"a", "b"}));
  dir.write(kTwo, file_of({"c"}));
  dir.write(kIndex, index_of({{"a", kOne}, {"b", kOne}, {"c", kTwo}}));
}

Outcome open_outcome(const TempDir& dir) {
  return outcome_of([&] { Checkpoint::open(dir.path()); });
}

// The refusal of a directory is kModel and says each of these.
void check_refused(const TempDir& dir, const std::vector<std::string>& parts) {
  const Outcome outcome = open_outcome(dir);
  CAPTURE(outcome.message);
  CHECK(outcome.is(ErrorKind::kModel));
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(outcome.says(part));
  }
}

TEST_CASE("checkpoint: one file") {
  const TempDir dir;
  dir.write("model.safetensors", file_of({"a", "b"}));
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  CHECK(checkpoint.tensors().size() == 2);
  CHECK(checkpoint.total_bytes() == 4);
  CHECK(checkpoint.find("c") == nullptr);
  const CheckpointTensor* b = checkpoint.find("b");
  REQUIRE(b != nullptr);
  CHECK(b->dtype == SafetensorsDType::kU8);
  CHECK(b->shape == std::vector<std::int64_t>{2});
  CHECK(checkpoint.path_of(*b) == (dir.path() / "model.safetensors").string());
  char data[2] = {};
  checkpoint.read(*b, 0, 2, data);
  CHECK(std::string(data, 2) == "bb");
  CHECK(outcome_of([&] { checkpoint.read(*b, 1, 2, data); }).is(ErrorKind::kInternal));
  CHECK(outcome_of([&] { checkpoint.read(*b, 3, 0, data); }).is(ErrorKind::kInternal));
}

TEST_CASE("checkpoint: shards") {
  const TempDir dir;
  write_sharded(dir);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  REQUIRE(checkpoint.tensors().size() == 3);
  CHECK(checkpoint.files().size() == 2);
  CHECK(checkpoint.total_bytes() == 6);
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    CHECK(checkpoint.find(tensor.name) == &tensor);
    char byte = 0;
    checkpoint.read(tensor, 1, 1, &byte);
    CHECK(byte == tensor.name[0]);
  }
  CHECK(checkpoint.path_of(*checkpoint.find("c")).ends_with(kTwo));
}

TEST_CASE("checkpoint: the single file wins over an index, as in transformers") {
  const TempDir dir;
  write_sharded(dir);
  dir.write("model.safetensors", file_of({"z"}));
  CHECK(Checkpoint::open(dir.path()).find("z") != nullptr);
}

TEST_CASE("checkpoint: a sharded checkpoint written by transformers opens whole") {
  const Checkpoint checkpoint =
      Checkpoint::open(test::source_dir() / "tests/model/data/sharded_bf16");
  CHECK(checkpoint.files().size() == 3);
  CHECK(checkpoint.find("model.embed_tokens.weight") != nullptr);
  CHECK(checkpoint.find("model.norm.weight") != nullptr);
}

TEST_CASE("checkpoint: shards are read by many threads at once") {
  const TempDir dir;
  write_sharded(dir);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 300; ++i) {
        const CheckpointTensor& tensor = checkpoint.tensors()[static_cast<std::size_t>(i % 3)];
        char data[2] = {};
        checkpoint.read(tensor, 0, 2, data);
        wrong += data[0] != tensor.name[0] || data[1] != tensor.name[0];
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK(wrong == 0);
}

TEST_CASE("checkpoint: a directory without safetensors is refused with a hint") {
  const TempDir dir;
  check_refused(dir, {dir.path().string(), "expected model.safetensors or", "found neither"});
  for (const char* name : {"pytorch_model.bin", "consolidated.00.pth", "consolidated.safetensors",
                           "model.pt", "model-q4.gguf", "adapter.safetensors"}) {
    const TempDir other;
    other.write(name, "x");
    check_refused(other, {name, "get the Hugging Face safetensors version"});
  }
  CHECK(outcome_of([&] {
          Checkpoint::open(dir.path() / "none");
        }).says("expected a checkpoint directory, found No such file"));
  const auto file = dir.write("file", "x");
  CHECK(outcome_of([&] { Checkpoint::open(file); }).says("found a file"));
}

TEST_CASE("checkpoint: a malformed index is refused") {
  for (const char* text :
       {"", "[]", "{}", "{\"weight_map\":null}", "{\"weight_map\":[]}", "{\"weight_map\":{}}",
        "{\"weight_map\":{\"a\":1}}", "{\"weight_map\":{\"a\":null}}",
        "{\"weight_map\":{\"a\":\"x.safetensors\",\"a\":\"x.safetensors\"}}"}) {
    CAPTURE(text);
    const TempDir dir;
    write_sharded(dir);
    dir.write(kIndex, text);
    check_refused(dir, {kIndex});
  }
}

TEST_CASE("checkpoint: the index's metadata may say anything or be absent") {
  const TempDir dir;
  write_sharded(dir);
  const std::string map = index_of({{"a", kOne}, {"b", kOne}, {"c", kTwo}}).substr(1);
  for (const char* metadata : {"null", "{\"total_size\":1}", "{\"total_size\":\"x\"}", "{}"}) {
    dir.write(kIndex, "{\"metadata\":" + std::string(metadata) + "," + map);
    CHECK(open_outcome(dir).ok());
  }
}

TEST_CASE("checkpoint: a shard's name can lead nowhere but into the directory") {
  for (const char* shard :
       {"../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", ".", "",
        "./x.safetensors", ".x.safetensors", "a\\\\b.safetensors", "x\\u0000.safetensors"}) {
    CAPTURE(shard);
    const TempDir dir;
    write_sharded(dir);
    fs::create_directory(dir.path() / "sub");
    fs::copy_file(dir.path() / kTwo, dir.path() / "sub" / "x.safetensors");
    dir.write(kIndex, index_of({{"a", kOne}, {"b", kOne}, {"c", shard}}));
    check_refused(dir, {kIndex, "\"c\"", "expected the name of a file in the same directory"});
  }
  const TempDir dir;
  write_sharded(dir);
  dir.write(kIndex, index_of({{"a", "pytorch_model-00001.bin"}}));
  check_refused(dir, {"expected a .safetensors shard", "pytorch_model-00001.bin"});
}

TEST_CASE("checkpoint: a link out of the directory is refused, one within it is not") {
  const TempDir outside;
  const auto target = outside.write("blob", file_of({"c"}));
  {
    const TempDir dir;
    write_sharded(dir);
    fs::remove(dir.path() / kTwo);
    fs::create_symlink(target, dir.path() / kTwo);
    check_refused(dir, {kTwo, "found a symbolic link to", "cp -rL"});
    fs::remove(dir.path() / kTwo);
    dir.write("blob", file_of({"c"}));
    fs::create_symlink("blob", dir.path() / kTwo);
    CHECK(open_outcome(dir).ok());
    // The directory itself may be reached through a link.
    fs::create_symlink(dir.path(), outside.path() / "link");
    CHECK(outcome_of([&] { Checkpoint::open(outside.path() / "link"); }).ok());
  }
  const TempDir dir;
  fs::create_symlink(target, dir.path() / "model.safetensors");
  check_refused(dir, {"model.safetensors", "found a symbolic link to"});
  fs::remove(dir.path() / "model.safetensors");
  fs::create_symlink("nowhere", dir.path() / "model.safetensors");
  check_refused(dir, {"model.safetensors", "No such file"});
}

TEST_CASE("checkpoint: index and shards must agree") {
  SUBCASE("a shard is missing") {
    const TempDir dir;
    write_sharded(dir);
    fs::remove(dir.path() / kTwo);
    check_refused(dir, {kTwo, "No such file"});
  }
  SUBCASE("a shard is cut") {
    const TempDir dir;
    write_sharded(dir);
    fs::resize_file(dir.path() / kTwo, fs::file_size(dir.path() / kTwo) - 1);
    check_refused(dir, {kTwo, "expected 2 bytes of tensor data, found 1"});
  }
  SUBCASE("a tensor is in two shards, named for either") {
    for (const char* owner : {kOne, kTwo}) {
      const TempDir dir;
      dir.write(kOne, file_of({"a", "c"}));
      dir.write(kTwo, file_of({"b", "c"}));
      dir.write(kIndex, index_of({{"a", kOne}, {"b", kTwo}, {"c", owner}}));
      check_refused(dir,
                    {"tensor \"c\"", owner == kOne ? concat(kTwo, ": ") : concat(kOne, ": "),
                     owner == kOne ? concat("is also in ", kOne) : concat("expects it in ", kTwo)});
    }
  }
  SUBCASE("a tensor is missing from its shard") {
    const TempDir dir;
    write_sharded(dir);
    dir.write(kTwo, file_of({"d"}));
    dir.write(kIndex, index_of({{"a", kOne}, {"b", kOne}, {"c", kTwo}, {"d", kTwo}}));
    check_refused(dir, {kTwo, "expected tensor \"c\"", "found none"});
  }
  SUBCASE("a tensor is in the other shard") {
    const TempDir dir;
    write_sharded(dir);
    dir.write(kIndex, index_of({{"a", kOne}, {"b", kTwo}, {"c", kTwo}}));
    check_refused(dir, {kOne, "tensor \"b\"", "the index expects it in", kTwo});
  }
  SUBCASE("a shard holds a tensor that the index lacks") {
    const TempDir dir;
    write_sharded(dir);
    dir.write(kTwo, file_of({"c", "extra"}));
    check_refused(dir, {kTwo, "\"extra\" is not in"});
  }
}

TEST_CASE("checkpoint: tensors that nothing needs may be missing from index or shard") {
  const std::string inv_freq = "model.layers.0.self_attn.rotary_emb.inv_freq";
  CHECK(is_optional_tensor(inv_freq));
  CHECK(is_optional_tensor("lm_head.weight"));
  CHECK_FALSE(is_optional_tensor("model.norm.weight"));
  const TempDir dir;
  write_sharded(dir);
  dir.write(kTwo, file_of({"c", inv_freq, "lm_head.weight"}));
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  CHECK(checkpoint.tensors().size() == 3);
  CHECK(checkpoint.find("lm_head.weight") == nullptr);
  dir.write(kTwo, file_of({"c"}));
  dir.write(kIndex, index_of({{"a", kOne}, {"b", kOne}, {"c", kTwo}, {inv_freq, kTwo}}));
  CHECK(open_outcome(dir).ok());
}

TEST_CASE("checkpoint: a file that shrinks after opening is an error of the read") {
  const TempDir dir;
  const auto path = dir.write("model.safetensors", file_of({"a", "b"}));
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  fs::resize_file(path, fs::file_size(path) - 1);
  char data[2] = {};
  const Outcome outcome = outcome_of([&] { checkpoint.read(*checkpoint.find("b"), 0, 2, data); });
  CHECK(outcome.is(ErrorKind::kModel));
  CHECK(outcome.says("expected 2 bytes"));
}

}  // namespace
}  // namespace engine
