// Ops that look at, or replace, what the router of a mixture of experts chooses.
//
// They forward every call to a backend's Ops; the mixture itself runs as its default body, so that
// routing is a call of its own. For eager steps only: reading a route waits for the device. A
// backend and the Ops wrapped must outlive them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace engine::test {

class RoutedOps : public Ops {
 public:
  explicit RoutedOps(Backend& backend) : backend_(backend), inner_(backend.ops()) {}

  void embed(const EmbedCall& call) override { inner_.embed(call); }
  void rmsnorm(const RmsNormCall& call) override { inner_.rmsnorm(call); }
  void linear(const LinearCall& call, Workspace scratch) override { inner_.linear(call, scratch); }
  void rope(const RopeCall& call) override { inner_.rope(call); }
  void kv_append(const KvAppendCall& call) override { inner_.kv_append(call); }
  void attention(const AttentionCall& call, Workspace scratch) override {
    inner_.attention(call, scratch);
  }
  void silu_mul(const SiluMulCall& call) override { inner_.silu_mul(call); }
  void add(const AddCall& call) override { inner_.add(call); }
  void sample(const SampleCall& call) override { inner_.sample(call); }
  void layernorm(const LayerNormCall& call) override { inner_.layernorm(call); }
  void gelu(const GeluCall& call) override { inner_.gelu(call); }
  void gather_gemv(const GatherGemvCall& call) override { inner_.gather_gemv(call); }
  void moe_route(const MoeRouteCall& call) override {
    inner_.moe_route(call);
    routed(call);
  }
  void moe_linear(const MoeLinearCall& call, Workspace scratch) override {
    inner_.moe_linear(call, scratch);
  }
  void moe_combine(const MoeCombineCall& call) override { inner_.moe_combine(call); }
  void batch_matmul(const BatchMatmulCall& call) override { inner_.batch_matmul(call); }
  void score_softmax(const ScoreSoftmaxCall& call) override { inner_.score_softmax(call); }
  void attention_batch(const AttentionBatchCall& call, Workspace scratch) override {
    inner_.attention_batch(call, scratch);
  }
  void attention_backward(const AttentionGradCall& call, Workspace scratch) override {
    inner_.attention_backward(call, scratch);
  }
  std::size_t attention_scratch_bytes(const AttentionCall& call) const override {
    return inner_.attention_scratch_bytes(call);
  }
  std::size_t linear_scratch_bytes(const LinearCall& call) const override {
    return inner_.linear_scratch_bytes(call);
  }
  std::size_t moe_linear_scratch_bytes(const MoeLinearCall& call) const override {
    return inner_.moe_linear_scratch_bytes(call);
  }
  std::size_t attention_batch_scratch_bytes(const AttentionBatchCall& call) const override {
    return inner_.attention_batch_scratch_bytes(call);
  }
  std::size_t attention_backward_scratch_bytes(const AttentionGradCall& call) const override {
    return inner_.attention_backward_scratch_bytes(call);
  }
  void attention_in(const AttentionInCall& call, Workspace scratch) override {
    inner_.attention_in(call, scratch);
  }
  void attention_out(const AttentionOutCall& call, Workspace scratch) override {
    inner_.attention_out(call, scratch);
  }
  void feed_forward(const FeedForwardCall& call, Workspace scratch) override {
    inner_.feed_forward(call, scratch);
  }

 protected:
  // After the backend's own routing of one layer; may overwrite call.experts and call.weights.
  virtual void routed(const MoeRouteCall& call) = 0;

  template <typename T>
  std::vector<T> read(const Tensor& tensor) {
    std::vector<T> values(static_cast<std::size_t>(tensor.size(0) * tensor.size(1)));
    backend_.read(values.data(), tensor);
    return values;
  }
  template <typename T>
  void write(const Tensor& tensor, const std::vector<T>& values) {
    backend_.write(tensor, values.data());
  }

 private:
  Backend& backend_;
  Ops& inner_;
};

// The experts of every token, (T, S) in the order of choice, of each layer.
using Routes = std::vector<std::vector<std::int32_t>>;

// Keeps the routes that the backend chooses.
class RouteRecorder final : public RoutedOps {
 public:
  RouteRecorder(Backend& backend, std::int64_t layers)
      : RoutedOps(backend), routes_(static_cast<std::size_t>(layers)) {}

  const Routes& routes() const { return routes_; }

 private:
  void routed(const MoeRouteCall& call) override {
    const std::vector<std::int32_t> chosen = read<std::int32_t>(call.experts);
    std::vector<std::int32_t>& layer = routes_[next_++ % routes_.size()];
    layer.insert(layer.end(), chosen.begin(), chosen.end());
  }

  Routes routes_;
  std::size_t next_ = 0;
};

// Sends every token to the experts it was sent to before. Their weights are still those of this
// run's logits: the softmax over the experts given, which renormalising makes of any softmax.
class RouteForcer final : public RoutedOps {
 public:
  RouteForcer(Backend& backend, Routes routes)
      : RoutedOps(backend), routes_(std::move(routes)), used_(routes_.size()) {}

 private:
  void routed(const MoeRouteCall& call) override {
    const std::size_t layer = next_++ % routes_.size();
    const auto tokens = static_cast<std::size_t>(call.logits.size(0));
    const auto experts = static_cast<std::size_t>(call.logits.size(1));
    const auto top_k = static_cast<std::size_t>(call.experts.size(1));
    const auto begin = routes_[layer].begin() + static_cast<std::ptrdiff_t>(used_[layer]);
    const std::vector<std::int32_t> chosen(begin,
                                           begin + static_cast<std::ptrdiff_t>(tokens * top_k));
    used_[layer] += tokens * top_k;
    const std::vector<float> logits = read<float>(call.logits);
    std::vector<float> weights(tokens * top_k);
    for (std::size_t t = 0; t < tokens; ++t) {
      const auto logit = [&](std::size_t s) {
        return static_cast<double>(
            logits[t * experts + static_cast<std::size_t>(chosen[t * top_k + s])]);
      };
      double sum = 0;
      for (std::size_t s = 0; s < top_k; ++s) sum += std::exp(logit(s) - logit(0));
      for (std::size_t s = 0; s < top_k; ++s) {
        weights[t * top_k + s] = static_cast<float>(std::exp(logit(s) - logit(0)) / sum);
      }
    }
    write(call.experts, chosen);
    write(call.weights, weights);
  }

  Routes routes_;
  std::vector<std::size_t> used_;
  std::size_t next_ = 0;
};

// Sends every token to the neighbours of the experts it should go to: a control.
class WrongExperts final : public RoutedOps {
 public:
  using RoutedOps::RoutedOps;

 private:
  void routed(const MoeRouteCall& call) override {
    std::vector<std::int32_t> chosen = read<std::int32_t>(call.experts);
    const auto experts = static_cast<std::int32_t>(call.logits.size(1));
    for (std::int32_t& expert : chosen) expert = (expert + 1) % experts;
    write(call.experts, chosen);
  }
};

// Leaves the weights of the chosen experts as the softmax over all experts gave them: a control.
class NoRenormalising final : public RoutedOps {
 public:
  using RoutedOps::RoutedOps;

 private:
  void routed(const MoeRouteCall& call) override {
    const std::vector<float> logits = read<float>(call.logits);
    const std::vector<std::int32_t> chosen = read<std::int32_t>(call.experts);
    const auto experts = static_cast<std::size_t>(call.logits.size(1));
    const auto top_k = static_cast<std::size_t>(call.experts.size(1));
    std::vector<float> weights(chosen.size());
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      const float* row = logits.data() + i / top_k * experts;
      const auto own = static_cast<double>(row[static_cast<std::size_t>(chosen[i])]);
      double sum = 0;
      for (std::size_t e = 0; e < experts; ++e) sum += std::exp(static_cast<double>(row[e]) - own);
      weights[i] = static_cast<float>(1.0 / sum);
    }
    write(call.weights, weights);
  }
};

}  // namespace engine::test
