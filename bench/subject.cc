#include "bench/subject.h"

#include <chrono>
#include <filesystem>
#include <utility>

#include "bench/synthetic_binder.h"
#include "engine/cli/output.h"
#include "engine/cli/report.h"
#include "engine/model/registry.h"
#include "engine/runtime/session.h"
#include "kernels/core/check.h"

namespace engine::bench {

QuantFormat linear_format(const BenchFlags& flags) {
  return flags.int8 ? QuantFormat::kInt8 : plain_format(flags.dtype);
}

std::string dtype_label(const BenchFlags& flags) {
  if (flags.int8) return "int8";
  switch (flags.dtype) {
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    default:
      return "float32";
  }
}

Subject::Subject(const RunContext& context, const BenchFlags& flags, const ModelSpec& spec,
                 std::int64_t max_context)
    : backend_(make_backend(context.device, context.backend)), measure_(backend_->measure()) {
  if (flags.model.empty()) {
    make_synthetic(context, flags, spec, max_context);
  } else {
    load(context, flags, max_context);
  }
}

void Subject::check_memory(std::size_t weights, std::size_t staging, DType dtype,
                           std::int64_t max_context) {
  const SessionMemory session =
      Session::memory(*backend_, *decoder_, {.dtype = dtype, .max_context = max_context});
  const std::size_t need = weights + staging + session.total();
  const std::size_t free = backend_->memory().free;
  ENGINE_CHECK(need <= free, ErrorKind::kMemory, to_string(backend_->device()), ": need ", need,
               " bytes (weights ", weights, ", the largest while it is made ", staging,
               ", cache and workspace ", session.total(), "), ", free,
               " are free; --layers N makes the model smaller");
}

void Subject::make_synthetic(const RunContext& context, const BenchFlags& flags,
                             const ModelSpec& spec, std::int64_t max_context) {
  label_ = spec.label;
  source_ = "synthetic";
  ModelConfig config = spec.config();
  config.layers = flags.layers.value_or(config.layers);
  made_ = make_decoder(config);
  decoder_ = made_.get();
  SyntheticBinder binder(flags.dtype, linear_format(flags));
  made_->bind(binder);
  check_memory(binder.device_bytes(), binder.staging_bytes(), flags.dtype, max_context);
  print_note(
      concat("making ", human_bytes(binder.device_bytes()), " of weights from seed ", flags.seed));
  SyntheticBinder::Made made =
      binder.make(*backend_, *measure_, flags.seed, context.backend.interrupt);
  memory_ = std::move(made.memory);
  ready_s_ = made.pack_s;
}

void Subject::load(const RunContext& context, const BenchFlags& flags, std::int64_t max_context) {
  ENGINE_CHECK(!flags.layers, ErrorKind::kUsage,
               "--layers: a checkpoint has its own; expected without --model");
  const std::filesystem::path directory = flags.model;
  ENGINE_CHECK(std::filesystem::is_directory(directory), ErrorKind::kModel, flags.model,
               ": not a directory; expected a Hugging Face checkpoint");
  // The last part of the path, whether or not it ends in a slash.
  label_ = (directory / "").parent_path().filename().string();
  source_ = flags.model;
  loader_.emplace(directory);
  decoder_ = &loader_->bind(flags.dtype, linear_format(flags));
  check_memory(loader_->device_bytes(), 0, flags.dtype, max_context);
  print_note(concat("loading ", human_bytes(loader_->file_bytes()), " from ", flags.model));
  const auto start = std::chrono::steady_clock::now();
  loader_->load(*backend_, [&](std::size_t) { context.poll(); });
  backend_->synchronize();
  ready_s_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace engine::bench
