// The tensors of a Hugging Face checkpoint directory, from one file or from indexed shards.
//
// Which files: `model.safetensors` when it is there, otherwise `model.safetensors.index.json` and
// the shards that it names: the order in which transformers looks. Nothing else is read; a
// directory that has weights in another form only (.bin, .pt, consolidated.*) is refused with a
// hint. No file may lie outside of the directory, be it by its name or through a symbolic link.
//
// Index and shards must agree: each indexed tensor is in the shard that the index names and in no
// other, and shards hold no tensor that the index lacks. The exceptions are the tensors that the
// engine never needs (is_optional_tensor): they may be missing from either side.
//
// Errors: everything that is wrong with the files is Error{kModel}, naming file and tensor; a
// failing disk is Error{kIo}.
//
// A Checkpoint owns its open files and is move-only; const methods, read() among them, are safe
// from many threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "engine/io/safetensors.h"

namespace engine {

struct CheckpointTensor {
  std::string name;
  SafetensorsDType dtype;
  std::vector<std::int64_t> shape;  // row-major
  std::uint64_t bytes;
  std::uint32_t file;    // index into Checkpoint::files()
  std::uint64_t offset;  // of the first byte in that file
};

// Whether a tensor may be left out of an index, or of its shard: old rotary tables, which the
// engine computes, and lm_head.weight, which tied checkpoints do without.
bool is_optional_tensor(std::string_view name);

class Checkpoint {
 public:
  // Opens the directory's weight files and checks all their headers; reads no tensor data.
  static Checkpoint open(const std::filesystem::path& directory);

  // All tensors, ordered by file and place: the order in which reading is fastest.
  const std::vector<CheckpointTensor>& tensors() const { return tensors_; }

  // The tensor called `name`, or null.
  const CheckpointTensor* find(std::string_view name) const;

  // Sum of the tensors' sizes.
  std::uint64_t total_bytes() const { return total_bytes_; }

  const std::vector<File>& files() const { return files_; }
  // The path of the file that holds `tensor`, for messages.
  const std::string& path_of(const CheckpointTensor& tensor) const;

  // Reads `bytes` bytes at `offset` of the data of `tensor`, which must be one of tensors(), into
  // `destination`. A range outside of the tensor is Error{kInternal}; see File::read for the rest.
  void read(const CheckpointTensor& tensor, std::uint64_t offset, std::size_t bytes,
            void* destination) const;

 private:
  Checkpoint() = default;
  void add_shards(const std::filesystem::path& directory);
  void add_tensors(File file, std::vector<SafetensorsTensor> tensors);
  void sort_names();

  std::vector<File> files_;
  std::vector<CheckpointTensor> tensors_;
  std::vector<std::uint32_t> by_name_;  // indices of tensors_, sorted by name
  std::uint64_t total_bytes_ = 0;
};

}  // namespace engine
