#include "tests/model/edited_checkpoint.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <span>
#include <stdexcept>

#include "engine/io/checkpoint.h"
#include "quant/format.h"
#include "quant/int8.h"
#include "tests/support/safetensors_bytes.h"

namespace engine::test {
namespace {

QuantFormat plain_format_of(SafetensorsDType dtype) {
  switch (dtype) {
    case SafetensorsDType::kF32:
      return QuantFormat::kF32;
    case SafetensorsDType::kF16:
      return QuantFormat::kF16;
    case SafetensorsDType::kBF16:
      return QuantFormat::kBF16;
    default:
      throw std::runtime_error("not a floating-point tensor");
  }
}

bool is_linear(const std::string& name) {
  if (name == "lm_head.weight") return true;
  for (const char* part : {"_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight",
                           ".gate_up_proj", "experts.down_proj"}) {
    if (name.ends_with(part)) return true;
  }
  return false;
}

void decode_rows(EditedTensor& tensor) {
  std::vector<float> values = tensor.values();
  const auto columns = static_cast<std::size_t>(tensor.shape.back());
  std::vector<std::int8_t> q(columns);
  for (std::size_t begin = 0; begin < values.size(); begin += columns) {
    const auto row = std::span(values).subspan(begin, columns);
    const std::uint16_t scale = int8_quantise_row(row, q);
    int8_decode_row(std::as_bytes(std::span(q)), reinterpret_cast<const std::byte*>(&scale), row);
  }
  tensor.set_values(values);
}

}  // namespace

std::vector<float> EditedTensor::values() const {
  const FormatInfo& format = format_info(plain_format_of(dtype));
  std::vector<float> result(bytes.size() / format.row_bytes(1));
  format.decode_row(bytes, nullptr, result);
  return result;
}

void EditedTensor::set_values(const std::vector<float>& values) {
  dtype = SafetensorsDType::kF32;
  bytes.resize(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
}

EditedCheckpoint::EditedCheckpoint(const std::filesystem::path& directory) {
  std::ifstream stream(directory / "config.json");
  config = nlohmann::json::parse(stream);
  const Checkpoint source = Checkpoint::open(directory);
  for (const CheckpointTensor& tensor : source.tensors()) {
    EditedTensor copy = {.name = tensor.name,
                         .dtype = tensor.dtype,
                         .shape = tensor.shape,
                         .bytes = std::vector<std::byte>(tensor.bytes)};
    source.read(tensor, 0, tensor.bytes, copy.bytes.data());
    tensors.push_back(std::move(copy));
  }
}

EditedTensor& EditedCheckpoint::tensor(const std::string& name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const EditedTensor& tensor) { return tensor.name == name; });
  if (found == tensors.end()) throw std::runtime_error("no tensor " + name);
  return *found;
}

void EditedCheckpoint::erase(const std::string& name) {
  const EditedTensor& found = tensor(name);
  tensors.erase(tensors.begin() + (&found - tensors.data()));
}

void EditedCheckpoint::write(const std::filesystem::path& directory) const {
  std::ofstream(directory / "config.json") << config.dump(1) << "\n";
  std::string header = "{", data;
  for (const EditedTensor& tensor : tensors) {
    std::string shape;
    for (const std::int64_t size : tensor.shape) {
      if (!shape.empty()) shape += ',';
      shape += std::to_string(size);
    }
    if (!data.empty()) header += ',';
    header += header_entry(tensor.name, std::string(safetensors_dtype_name(tensor.dtype)), shape,
                           data.size(), data.size() + tensor.bytes.size());
    data.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  }
  header += '}';
  const std::string file = safetensors_bytes(header, data);
  std::ofstream out(directory / "model.safetensors", std::ios::binary);
  out.write(file.data(), static_cast<std::streamsize>(file.size()));
  if (!out.flush()) throw std::runtime_error("cannot write to " + directory.string());
}

void decode_int8(EditedCheckpoint& checkpoint) {
  if (checkpoint.config.value("tie_word_embeddings", false)) {
    checkpoint.config["tie_word_embeddings"] = false;
    EditedTensor head = checkpoint.tensor("model.embed_tokens.weight");
    head.name = "lm_head.weight";
    checkpoint.tensors.push_back(std::move(head));
  }
  for (EditedTensor& tensor : checkpoint.tensors) {
    if (is_linear(tensor.name)) decode_rows(tensor);
  }
}

}  // namespace engine::test
