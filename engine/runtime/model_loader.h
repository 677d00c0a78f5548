// From a checkpoint directory to a decoder whose weights are on a device.
//
// The steps are apart so that everything that can be known without reading data is: opening checks
// the files and the config, bind() checks every tensor and knows the memory, load() reads. Used by
// one thread.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine/io/checkpoint.h"
#include "engine/io/weight_binder.h"
#include "engine/model/config.h"
#include "engine/model/decoder.h"
#include "kernels/backend.h"

namespace engine {

class ModelLoader {
 public:
  // Reads config.json and the headers of the safetensors files. Throws Error{kModel} or
  // Error{kUnsupported} naming file and field.
  explicit ModelLoader(const std::filesystem::path& directory);

  const ModelConfig& config() const { return decoder_->config(); }
  // The type most of the weights are stored in.
  DType stored_dtype() const;

  // Declares every weight, to be stored as `dtype` on the device, linear ones in the format
  // `linear` where it is given; throws Error{kModel} naming a tensor that is missing, misshapen or
  // not used. The decoder belongs to the loader.
  const Decoder& bind(DType dtype, std::optional<QuantFormat> linear = std::nullopt);
  // After bind(): bytes on the device and bytes to read.
  std::size_t device_bytes() const { return binder_->device_bytes(); }
  std::size_t file_bytes() const { return binder_->file_bytes(); }

  // After bind(): reads the weights. The backend must outlive the loader.
  void load(Backend& backend, const std::function<void(std::size_t bytes)>& progress);

 private:
  std::unique_ptr<Decoder> decoder_;
  Checkpoint checkpoint_;
  std::optional<CheckpointBinder> binder_;
  std::vector<Buffer> memory_;
};

}  // namespace engine
