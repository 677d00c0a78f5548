// A model on a device, ready to be measured: synthetic or from a checkpoint.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/models.h"
#include "bench/options.h"
#include "bench/run_context.h"
#include "engine/model/decoder.h"
#include "engine/runtime/model_loader.h"
#include "kernels/backend.h"
#include "kernels/measure.h"

namespace engine::bench {

// Owns a backend and the weights on it. The members are in the order that destruction wants.
class Subject {
 public:
  // Makes or loads the weights, after checking that they fit together with a session of
  // `max_context` positions. Throws Error{kMemory} with need and free bytes.
  Subject(const RunContext& context, const BenchFlags& flags, const ModelSpec& spec,
          std::int64_t max_context);

  Backend& backend() { return *backend_; }
  Measure& measure() { return *measure_; }
  const Decoder& decoder() const { return *decoder_; }
  // In the rows: the experiment's label or the checkpoint's folder.
  const std::string& label() const { return label_; }
  // "synthetic", or the checkpoint's folder.
  const std::string& source() const { return source_; }
  // From weights in their stored type to weights as the kernels read them: for synthetic ones on
  // the device quantising and packing, for a checkpoint all of loading.
  double ready_s() const { return ready_s_; }

 private:
  void make_synthetic(const RunContext& context, const BenchFlags& flags, const ModelSpec& spec,
                      std::int64_t max_context);
  void load(const RunContext& context, const BenchFlags& flags, std::int64_t max_context);
  void check_memory(std::size_t weights, std::size_t staging, DType dtype,
                    std::int64_t max_context);

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Measure> measure_;
  std::vector<Buffer> memory_;
  std::unique_ptr<Decoder> made_;
  std::optional<ModelLoader> loader_;
  const Decoder* decoder_ = nullptr;
  std::string label_, source_;
  double ready_s_ = 0;
};

// The format that linear weights have under these flags.
QuantFormat linear_format(const BenchFlags& flags);
// "bfloat16", "float16", "float32", or "int8" for int8 weights.
std::string dtype_label(const BenchFlags& flags);

}  // namespace engine::bench
