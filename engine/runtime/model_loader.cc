#include "engine/runtime/model_loader.h"

#include <algorithm>
#include <array>

#include "engine/model/registry.h"
#include "kernels/core/check.h"

namespace engine {

ModelLoader::ModelLoader(const std::filesystem::path& directory)
    : decoder_(make_decoder(load_config(directory))), checkpoint_(Checkpoint::open(directory)) {}

DType ModelLoader::stored_dtype() const {
  struct Candidate {
    SafetensorsDType stored;
    DType dtype;
    std::uint64_t bytes = 0;
  };
  std::array<Candidate, 3> candidates = {{{SafetensorsDType::kBF16, DType::kBF16},
                                          {SafetensorsDType::kF16, DType::kF16},
                                          {SafetensorsDType::kF32, DType::kF32}}};
  for (const CheckpointTensor& tensor : checkpoint_.tensors()) {
    for (Candidate& candidate : candidates) {
      if (tensor.dtype == candidate.stored) candidate.bytes += tensor.bytes;
    }
  }
  return std::max_element(candidates.begin(), candidates.end(),
                          [](const Candidate& a, const Candidate& b) { return a.bytes < b.bytes; })
      ->dtype;
}

const Decoder& ModelLoader::bind(DType dtype, std::optional<QuantFormat> linear) {
  binder_.emplace(checkpoint_, dtype, linear.value_or(plain_format(dtype)));
  decoder_->bind(*binder_);
  binder_->check_all_used();
  return *decoder_;
}

void ModelLoader::load(Backend& backend, const std::function<void(std::size_t bytes)>& progress) {
  ENGINE_REQUIRE(binder_.has_value(), "load before bind");
  memory_ = binder_->load(backend, progress);
}

}  // namespace engine
