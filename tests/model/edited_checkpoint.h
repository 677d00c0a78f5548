// A checkpoint in memory, to be changed and written elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/io/safetensors.h"

namespace engine::test {

struct EditedTensor {
  std::string name;
  SafetensorsDType dtype = SafetensorsDType::kF32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;

  // The elements of an F32, F16 or BF16 tensor.
  std::vector<float> values() const;
  // Makes it an F32 tensor of these elements.
  void set_values(const std::vector<float>& values);
};

class EditedCheckpoint {
 public:
  // Reads config.json and every tensor of the directory.
  explicit EditedCheckpoint(const std::filesystem::path& directory);

  // The tensor of that name, which must be there.
  EditedTensor& tensor(const std::string& name);
  void erase(const std::string& name);
  // Writes config.json and model.safetensors.
  void write(const std::filesystem::path& directory) const;

  nlohmann::json config;
  std::vector<EditedTensor> tensors;
};

// Replaces every linear weight by what its int8 form decodes to, in F32: projections, feed-forward,
// experts and output head, each row by quant/int8. Tied embeddings come apart, as only the head is
// quantised.
void decode_int8(EditedCheckpoint& checkpoint);

}  // namespace engine::test
