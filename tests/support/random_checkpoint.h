// A Hugging Face LLaMA directory with seeded random weights, to be spoilt in every way.
//
// The content is held in memory and public; write() brings the directory in line with it. The
// directory is removed on destruction. The tokenizer is byte-level BPE over the ids
//
//   0 <s>   1 </s>   2 + b: the byte b   258 "he"   259 "the"   260 " the"
//
// with those three merges in that order and <s> before every text, so that the ids of a text can be
// told by hand.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/core/dtype.h"
#include "tests/support/temp_dir.h"

namespace engine::test {

struct CheckpointShape {
  std::int64_t hidden = 32, intermediate = 48, layers = 2, heads = 4, kv_heads = 2, vocab = 270,
               positions = 128;
  DType dtype = DType::kF32;
  bool tied = false;
  int shards = 1;  // 1: model.safetensors; more: model.safetensors.index.json and its shards
  std::uint64_t seed = 1;
  bool sparse = false;  // all zeros, in files that take no place on the disk: any size will do
};

// A tensor as the file has it.
struct StoredTensor {
  std::string name;
  std::string dtype;  // "F32", "BF16", ...
  std::vector<std::int64_t> shape;
  std::string bytes;  // empty: zeros that are not written
  int shard = 0;

  std::int64_t size() const;           // in elements, by the shape
  std::uint64_t stored_bytes() const;  // in the file
  // Element `index` of an F32, F16 or BF16 tensor.
  void set(std::int64_t index, float value);
  void fill(float value);
};

class RandomCheckpoint {
 public:
  explicit RandomCheckpoint(const CheckpointShape& shape = {});

  const std::filesystem::path& path() const { return directory_.path(); }
  std::string name() const { return path().string(); }
  const CheckpointShape& shape() const { return shape_; }

  nlohmann::json config;
  std::vector<StoredTensor> tensors;
  nlohmann::json index;  // of several shards
  std::string tokenizer = byte_tokenizer();

  // The tensor of that name. Throws where there is none.
  StoredTensor& tensor(const std::string& name);
  void drop(const std::string& name);
  // Adds a tensor of ones, also to the index.
  StoredTensor& add(const std::string& name, std::vector<std::int64_t> shape);

  // Writes everything: config.json, tokenizer.json (not when it is empty) and the weights.
  void write() const;
  // Writes or replaces one file.
  void write_file(const std::string& name, std::string_view content) const {
    directory_.write(name, content);
  }
  void remove_file(const std::string& name) const;
  std::string shard_name(int shard) const;
  // The bytes of a shard's file, without the data of a sparse checkpoint.
  std::string shard_bytes(int shard) const;
  // The bytes of all tensors.
  std::uint64_t data_bytes() const;

  // The text of the tokenizer described above.
  static std::string byte_tokenizer();

 private:
  void add_random(const std::string& name, std::vector<std::int64_t> shape, double spread,
                  double centre);

  CheckpointShape shape_;
  TempDir directory_;
  std::uint64_t random_;
};

}  // namespace engine::test
