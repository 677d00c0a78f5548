// What Mixtral asks of a checkpoint: both layouts of the experts, and what is wrong with others.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "engine/runtime/model_loader.h"
#include "kernels/core/check.h"
#include "tests/model/edited_checkpoint.h"
#include "tests/model/goldens.h"
#include "tests/support/temp_dir.h"

namespace engine::test {
namespace {

EditedCheckpoint checkpoint_named(const std::string& name) {
  const std::vector<Golden> all = load_goldens();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Golden& g) { return g.name == name; });
  REQUIRE(found != all.end());
  return EditedCheckpoint(found->directory);
}

// The message with which binding the checkpoint is refused as a bad model; empty where it isn't.
std::string refusal(const EditedCheckpoint& checkpoint) {
  const TempDir directory;
  checkpoint.write(directory.path());
  try {
    ModelLoader loader(directory.path());
    loader.bind(DType::kF32);
    return "";
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kModel);
    return error.what();
  }
}

bool mentions(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("a mixture as it was made is accepted in either layout") {
  CHECK(refusal(checkpoint_named("mixtral_8_top2")).empty());
  CHECK(refusal(checkpoint_named("mixtral_fused")).empty());
}

TEST_CASE("a missing tensor of a mixture is named") {
  for (const char* name : {"model.layers.1.block_sparse_moe.gate.weight",
                           "model.layers.0.block_sparse_moe.experts.0.w1.weight",
                           "model.layers.1.block_sparse_moe.experts.7.w2.weight",
                           "model.layers.0.block_sparse_moe.experts.3.w3.weight"}) {
    EditedCheckpoint checkpoint = checkpoint_named("mixtral_8_top2");
    checkpoint.erase(name);
    CAPTURE(name);
    CHECK(mentions(refusal(checkpoint), concat("tensor ", name, " is missing")));
  }
  for (const char* name :
       {"model.layers.1.mlp.gate.weight", "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.1.mlp.experts.down_proj"}) {
    EditedCheckpoint checkpoint = checkpoint_named("mixtral_fused");
    checkpoint.erase(name);
    CAPTURE(name);
    CHECK(mentions(refusal(checkpoint), concat("tensor ", name, " is missing")));
  }
}

TEST_CASE("experts of another shape are refused with the shape expected") {
  EditedCheckpoint apart = checkpoint_named("mixtral_8_top2");
  apart.tensor("model.layers.0.block_sparse_moe.experts.2.w2.weight").shape = {24, 32};
  CHECK(mentions(refusal(apart), "experts.2.w2.weight: expected shape [32, 24], found [24, 32]"));

  // The same bytes with gate and up rows apart, and as a matrix.
  for (const std::vector<std::int64_t>& shape :
       {std::vector<std::int64_t>{12, 20, 32}, std::vector<std::int64_t>{240, 32}}) {
    EditedCheckpoint fused = checkpoint_named("mixtral_fused");
    fused.tensor("model.layers.1.mlp.experts.gate_up_proj").shape = shape;
    CHECK(mentions(refusal(fused),
                   "layers.1.mlp.experts.gate_up_proj: expected shape [6, 40, 32], found ["));
  }
}

TEST_CASE("an expert too many and an expert too few are refused") {
  EditedCheckpoint many = checkpoint_named("mixtral_8_top2");
  many.config["num_local_experts"] = 7;
  CHECK(mentions(refusal(many), "gate.weight: expected shape [7, 32], found [8, 32]"));

  EditedCheckpoint extra = checkpoint_named("mixtral_8_top2");
  EditedTensor expert = extra.tensor("model.layers.0.block_sparse_moe.experts.7.w1.weight");
  expert.name = "model.layers.0.block_sparse_moe.experts.8.w1.weight";
  extra.tensors.push_back(expert);
  CHECK(mentions(refusal(extra), "experts.8.w1.weight"));

  EditedCheckpoint both = checkpoint_named("mixtral_fused");
  EditedTensor router = both.tensor("model.layers.0.mlp.gate.weight");
  router.name = "model.layers.0.block_sparse_moe.gate.weight";
  both.tensors.push_back(router);
  CHECK(mentions(refusal(both), "block_sparse_moe.gate.weight"));
}

TEST_CASE("no experts and more chosen than there are: a bad config") {
  EditedCheckpoint none = checkpoint_named("mixtral_8_top2");
  none.config["num_local_experts"] = 0;
  CHECK(mentions(refusal(none), "num_local_experts: expected an integer in [1, "));
  EditedCheckpoint greedy = checkpoint_named("mixtral_8_top2");
  greedy.config["num_experts_per_tok"] = 9;
  CHECK(mentions(refusal(greedy), "num_experts_per_tok: expected at most num_local_experts 8"));
  EditedCheckpoint idle = checkpoint_named("mixtral_8_top2");
  idle.config["num_experts_per_tok"] = 0;
  CHECK(mentions(refusal(idle), "num_experts_per_tok: expected an integer in [1, "));
  EditedCheckpoint alias = checkpoint_named("mixtral_8_top2");
  alias.config.erase("num_local_experts");
  alias.config["num_experts"] = 8;
  CHECK(refusal(alias).empty());
}

}  // namespace
}  // namespace engine::test
