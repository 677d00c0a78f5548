#include "bench/registry.h"

#include <algorithm>
#include <string_view>

#include "bench/ceilings.h"
#include "bench/fidelity_experiment.h"
#include "bench/kernel_experiments.h"
#include "bench/model_experiment.h"
#include "bench/models.h"
#include "bench/score_mod_experiment.h"
#include "bench/sdp_experiment.h"
#include "kernels/core/check.h"

namespace engine::bench {
namespace {

// The runs that "all" stands for.
struct Standard {
  std::string_view name;
  bool int8 = false, backward = false;
};
constexpr Standard kAll[] = {{"llama2-7b", false},
                             {"llama2-7b", true},
                             {"mixtral-8x7b", true},
                             {"gemv", false},
                             {"gemv", true},
                             {"gather_gemv", false},
                             {"gather_gemv", true},
                             {"layer_norm", false},
                             {"mlp_layer_norm_gelu", false},
                             {"sdp", false},
                             {"score_mod", false, true},
                             {"ceilings", false}};

std::string describe(const char* dtype, const ModelTargets& targets) {
  if (targets.token_per_sec == 0) return "";
  return concat(dtype, ": ", targets.token_per_sec, " tok/s, ", targets.memory_bandwidth,
                " GB/s, start-up ", targets.startup_time, " s");
}

Experiment model_experiment(const ModelSpec& spec) {
  const std::string bf16 = describe("bf16", spec.bf16), int8 = describe("int8", spec.int8);
  return {.name = std::string(spec.name),
          .summary = std::string(spec.summary),
          .targets = bf16 + (bf16.empty() || int8.empty() ? "" : "; ") + int8,
          .run = [&spec](const RunContext& context, const BenchFlags& flags) {
            return run_model(context, flags, spec);
          }};
}

const Experiment& find(const std::string& name) {
  const std::vector<Experiment>& all = experiments();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Experiment& e) { return e.name == name; });
  if (found != all.end()) return *found;
  std::string known;
  for (const Experiment& experiment : all) known += experiment.name + ", ";
  fail(ErrorKind::kUsage, "unknown experiment '", name, "'; known are ", known, "all");
}

}  // namespace

const std::vector<Experiment>& experiments() {
  static const std::vector<Experiment> all = [] {
    std::vector<Experiment> list;
    for (const ModelSpec& spec : model_specs()) list.push_back(model_experiment(spec));
    list.push_back({.name = "fidelity",
                    .summary = "int8 against unquantised weights on a text (--model, --text)",
                    .targets = "",
                    .run = run_fidelity});
    list.push_back({.name = "sdp",
                    .summary = "multi-head self-attention as a layer (--batch, --heads, --seq, "
                               "--head-dim, --pad)",
                    .targets = "",
                    .run = run_sdp});
    list.push_back({.name = "score_mod",
                    .summary = "attention with a score function (--mods, --backward, --batch, "
                               "--heads, --seq, --head-dim)",
                    .targets = "",
                    .run = run_score_mod});
    list.push_back({.name = "gemv",
                    .summary = "a vector by a (D, D) matrix, bf16 or raw int8 (--int8)",
                    .targets = "bf16: 990 GB/s; int8: 870 GB/s",
                    .run = run_gemv});
    list.push_back({.name = "gather_gemv",
                    .summary = "a vector by two of eight (D, D) matrices, chosen on the device",
                    .targets = "bf16: 1060 GB/s; int8: 990 GB/s",
                    .run = run_gather_gemv});
    list.push_back({.name = "layer_norm",
                    .summary = "4096 rows of D",
                    .targets = "bf16: 950 GB/s",
                    .run = run_layer_norm});
    list.push_back({.name = "mlp_layer_norm_gelu",
                    .summary = "D to 14336 to D with layer norms: one row, and 4096 with a GELU",
                    .targets = "bf16: 0.8 by the source's formula",
                    .run = run_mlp_layer_norm_gelu});
    list.push_back({.name = "ceilings",
                    .summary = "what the machine reads, copies and multiplies at most",
                    .targets = "",
                    .run = [](const RunContext& context, const BenchFlags&) {
                      return run_ceilings(context);
                    }});
    return list;
  }();
  return all;
}

std::vector<Order> plan_run(const BenchFlags& flags) {
  std::vector<Order> orders;
  for (const std::string& word : flags.words) {
    if (word != "all") {
      orders.push_back({&find(word), flags});
      continue;
    }
    for (const Standard& standard : kAll) {
      BenchFlags own = flags;
      own.int8 = standard.int8;
      own.backward = standard.backward;
      orders.push_back({&find(std::string(standard.name)), own});
    }
  }
  return orders;
}

Table experiment_list() {
  Table table{{"experiment", "what it measures", "targets (A100-40GB)"}, {}};
  for (const Experiment& e : experiments()) {
    table.rows.push_back({e.name, e.summary, e.targets.empty() ? "-" : e.targets});
  }
  table.rows.push_back({"all", "every standard run, in order: models, kernels, ceilings", "-"});
  return table;
}

}  // namespace engine::bench
