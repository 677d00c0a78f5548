#include "bench/fidelity_experiment.h"

#include <algorithm>
#include <memory>
#include <string>

#include "bench/subject.h"
#include "engine/cli/progress.h"
#include "engine/cli/prompt.h"
#include "engine/io/tokenizer.h"
#include "engine/runtime/fidelity.h"
#include "engine/runtime/model_loader.h"
#include "kernels/core/check.h"

namespace engine::bench {
namespace {

constexpr std::int64_t kMostContext = 4096;  // longer texts are cut into windows of this

struct Metric {
  const char* name;
  double value;
};

}  // namespace

std::vector<Result> run_fidelity(const RunContext& context, const BenchFlags& flags) {
  ENGINE_CHECK(!flags.model.empty() && !flags.text.empty(), ErrorKind::kUsage,
               "fidelity: expected --model DIR and --text FILE");
  const std::unique_ptr<Backend> backend = make_backend(context.device, context.backend);
  const std::filesystem::path directory = flags.model;
  ModelLoader reference(directory), candidate(directory);
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(directory);
  static_cast<void>(check_tokenizer(*tokenizer, reference.config()));
  const std::vector<std::int32_t> ids = tokenizer->encode(read_text_file(flags.text), false);
  const SessionOptions options = {
      .dtype = flags.dtype,
      .max_context = std::min({kMostContext, reference.config().max_positions,
                               static_cast<std::int64_t>(ids.size()) + 1})};
  const Decoder& plain = reference.bind(flags.dtype);
  const Decoder& quantised = candidate.bind(flags.dtype, QuantFormat::kInt8);
  for (ModelLoader* loader : {&reference, &candidate}) {
    loader->load(*backend, [&](std::size_t) { context.poll(); });
  }
  Session expected(*backend, plain, options);
  Session found(*backend, quantised, options);
  ProgressBar bar("comparing", ids.size());
  const Fidelity result =
      fidelity(expected, found, ids, tokenizer->bos_id(), [&](std::int64_t tokens) {
        bar.update(static_cast<std::size_t>(tokens));
        context.poll();
      });

  std::vector<Result> results;
  for (const Metric& metric :
       {Metric{"mean_kl(nats)", result.mean_kl}, Metric{"largest_kl(nats)", result.largest_kl},
        Metric{"top1_agreement", result.top1_agreement()},
        Metric{"sure_top1_agreement", result.sure_agreement()},
        Metric{"positions", static_cast<double>(result.positions)},
        Metric{"sure_positions", static_cast<double>(result.sure_positions)}}) {
    Result row =
        context.row((directory / "").parent_path().filename().string(), metric.name, "int8");
    row.is_model = true;
    row.actual = metric.value;
    row.values = {metric.value};
    row.columns = {{"layers", reference.config().layers},
                   {"weights", flags.model},
                   {"compute_dtype", std::string(dtype_name(flags.dtype))},
                   {"commit", context.commit}};
    results.push_back(row);
  }
  return results;
}

}  // namespace engine::bench
