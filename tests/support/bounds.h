// Oracles with error bounds: what a correct kernel may return around the exact value.
//
// `Bounded` is an oracle's values and, for each, the most that rounding can move them, given the
// errors its inputs already have. Composing them gives the tolerance of the fused ops, whether a
// backend rounds every intermediate (as the default bodies do) or none.
//
// Notation: u32 = 2^-24 (fp32 arithmetic), u = unit roundoff of the stored type, every fp32
// operation has relative error ≤ u32, and square root, division, exponential and logarithm of any
// maths library in use ≤ 4 u32, apart from what an argument's own rounding costs.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "kernels/reference/reference.h"
#include "tests/support/closeness.h"

namespace engine::test {

inline constexpr double kFp32 = 0x1p-24;

struct Bounded {
  Values value, error;
};

inline Bounded exact(Values value) {
  Values none(value.size(), 0.0);
  return {std::move(value), std::move(none)};
}

// One rounding to `dtype` on top of an error.
inline double rounded(double value, double error, DType dtype) {
  return error + unit_roundoff(dtype) * (std::fabs(value) + error) + underflow(dtype);
}

inline Values magnitudes(const Values& values) {
  Values out = values;
  for (double& value : out) value = std::fabs(value);
  return out;
}

// Columns [begin, begin + count) of a (rows, width) matrix.
inline Values columns(const Values& matrix, std::int64_t width, std::int64_t begin,
                      std::int64_t count) {
  Values out;
  for (auto row = matrix.begin(); row != matrix.end(); row += width) {
    out.insert(out.end(), row + begin, row + begin + count);
  }
  return out;
}
inline Bounded columns(const Bounded& matrix, std::int64_t width, std::int64_t begin,
                       std::int64_t count) {
  return {columns(matrix.value, width, begin, count), columns(matrix.error, width, begin, count)};
}

// The sum of squares has only positive terms: relative error γ_D; with the division by D and the
// addition of eps γ_{D+2}, halved by the root; the root, the quotient and the weight's product cost
// 4 u32 + 4 u32 + u32. Two roundings to the stored type.
inline Bounded rmsnorm_bounded(const Values& x, const Values& weight, double eps, DType dtype) {
  Bounded out = exact(reference::rmsnorm(x, weight, eps));
  const double u = unit_roundoff(dtype);
  const auto width = static_cast<std::int64_t>(weight.size());
  const double relative =
      (1.0 + gamma(width + 2, kFp32) / 2.0 + 9.0 * kFp32) * (1.0 + u) * (1.0 + u) - 1.0;
  for (std::size_t i = 0; i < out.value.size(); ++i) {
    out.error[i] = relative * std::fabs(out.value[i]) +
                   underflow(dtype) * (1.0 + std::fabs(weight[i % weight.size()]));
  }
  return out;
}

// A row's common factor is off by the error of the sum of squares: a random walk over partial sums,
// u32 √D ÷ 6 of it; and two roundings.
inline double rmsnorm_nmse(std::int64_t width, DType dtype) {
  return kFp32 * kFp32 * (static_cast<double>(width) + 16.0) + 2.0 * rounding_nmse(dtype);
}

// |Σ x̂ w − Σ x w| ≤ Σ |δx| |w| + γ_{K+2} (Σ (|x| + |δx|) |w| + |r|), then one rounding: K products
// and their sum, the residual, and the scale of a quantised row, of which w is the decoded form.
// `operands` is the type of x and the weight, `out` that of the result.
inline Bounded linear_bounded(const Bounded& x, const Values& weight, const Values& residual,
                              std::int64_t inputs, DType operands, DType out_type) {
  Bounded out = exact(reference::linear(x.value, weight, residual, inputs));
  const Values w = magnitudes(weight);
  Values reach = magnitudes(x.value);
  for (std::size_t i = 0; i < reach.size(); ++i) reach[i] += x.error[i];
  const Values moved = reference::linear(x.error, w, {}, inputs);
  const Values summed = reference::linear(reach, w, magnitudes(residual), inputs);
  const double growth = gamma(inputs + 2, accumulator_roundoff(operands));
  for (std::size_t i = 0; i < out.value.size(); ++i) {
    out.error[i] =
        rounded(out.value[i], moved[i] + growth * summed[i] + underflow(DType::kF32), out_type);
  }
  return out;
}

// Two products and a sum in fp32, 2 u32 of each product's magnitude, then one rounding.
inline Bounded rope_bounded(const Bounded& x, const Values& table, std::int64_t heads,
                            std::int64_t head_size, std::int64_t position, DType dtype) {
  Bounded out = exact(reference::rope(x.value, table, heads, head_size, position));
  // |a cos| + |b sin| in both halves: rotate magnitudes by |cos|, ∓|sin|.
  Values plus = magnitudes(table), minus = plus;
  for (std::size_t i = 0; i < minus.size(); ++i) {
    const bool sine = static_cast<std::int64_t>(i) % head_size >= head_size / 2;
    if (sine) minus[i] = -minus[i];
  }
  const auto spread = [&](const Values& v) {
    const Values first = reference::rope(v, minus, heads, head_size, position);
    const Values second = reference::rope(v, plus, heads, head_size, position);
    Values both(v.size());
    for (std::size_t i = 0; i < v.size(); ++i) {
      const bool low = static_cast<std::int64_t>(i) % head_size < head_size / 2;
      both[i] = low ? first[i] : second[i];
    }
    return both;
  };
  const Values moved = spread(x.error), products = spread(magnitudes(x.value));
  for (std::size_t i = 0; i < out.value.size(); ++i) {
    out.error[i] =
        rounded(out.value[i],
                moved[i] + 2.0 * kFp32 * (products[i] + moved[i]) + underflow(DType::kF32), dtype);
  }
  return out;
}

// exp(−z) has relative error ≤ (2 |z| + 4) u32 (its argument is rounded when scaled by log₂ e, and
// rounded again), which is the most it adds to 1 + exp(−z); the sum, the quotient and the product
// cost 6 u32 more. silu' ≤ 1.1 carries the gate's own error. Below z = −87 exp(−z) may overflow and
// give zero for what is at most 2^-118.
inline Bounded silu_mul_bounded(const Bounded& gate, const Bounded& up, DType dtype) {
  Bounded out = exact(reference::silu_mul(gate.value, up.value));
  for (std::size_t i = 0; i < out.value.size(); ++i) {
    const double reach = std::fabs(up.value[i]) + up.error[i];
    const double silu = std::fabs(gate.value[i]) / (1.0 + std::exp(-gate.value[i]));
    const double moved = 1.1 * gate.error[i] * reach + silu * up.error[i];
    const double arithmetic =
        (2.0 * std::fabs(gate.value[i]) + 10.0) * kFp32 * std::fabs(out.value[i]) +
        0x1p-118 * reach;
    out.error[i] = rounded(out.value[i], moved + arithmetic, dtype);
  }
  return out;
}

// Row r of x by the matrix of expert chosen[r]; `share` rows in a row take the same row of x.
inline Bounded moe_linear_bounded(const Bounded& x, const std::vector<Values>& matrices,
                                  std::span<const std::int32_t> chosen, std::int64_t share,
                                  std::int64_t inputs, DType operands) {
  Bounded out;
  for (std::size_t r = 0; r < chosen.size(); ++r) {
    const auto begin = static_cast<std::int64_t>(r) / share * inputs;
    const auto part = [&](const Values& v) {
      return Values(v.begin() + begin, v.begin() + begin + inputs);
    };
    const Bounded row = linear_bounded({part(x.value), part(x.error)},
                                       matrices[static_cast<std::size_t>(chosen[r])], {}, inputs,
                                       operands, operands);
    out.value.insert(out.value.end(), row.value.begin(), row.value.end());
    out.error.insert(out.error.end(), row.error.begin(), row.error.end());
  }
  return out;
}

// The weights of a route whose experts are right. Logits off by δ at the most move a share by a
// factor of exp(2 δ); with z the distance to the greatest logit, each exponential costs
// (2 |z| + 4) u32 (see silu_mul), twice, and the sum of S, two quotients and the store γ_{S+10}.
inline Bounded moe_weights_bounded(const Bounded& logits, const reference::Route& route,
                                   std::int64_t experts, std::int64_t top_k) {
  Bounded out = exact(route.weights);
  for (std::size_t i = 0; i < out.value.size(); ++i) {
    const std::size_t row = i / static_cast<std::size_t>(top_k) * static_cast<std::size_t>(experts);
    double moved = 0.0, reach = 0.0;
    for (std::size_t e = row; e < row + static_cast<std::size_t>(experts); ++e) {
      moved = std::max(moved, logits.error[e]);
      const std::size_t best =
          row +
          static_cast<std::size_t>(
              route.experts[i / static_cast<std::size_t>(top_k) * static_cast<std::size_t>(top_k)]);
      reach = std::max(reach, logits.value[best] - logits.value[e]);
    }
    // Beyond 90 a share is below 2^-129, whatever its relative error.
    const double relative = std::expm1(2.0 * moved) +
                            2.0 * (2.0 * std::min(reach, 90.0) + 4.0) * kFp32 +
                            gamma(top_k + 10, kFp32);
    out.error[i] = relative * out.value[i] + underflow(DType::kF32);
  }
  return out;
}

// Σ w y + r: the errors of both factors, γ_{S+1} of the magnitudes, one rounding.
inline Bounded moe_combine_bounded(const Bounded& y, const Bounded& weights, const Values& residual,
                                   std::int64_t top_k, DType dtype) {
  Bounded out = exact(reference::moe_combine(y.value, weights.value, residual, top_k));
  const Values size = magnitudes(y.value), share = magnitudes(weights.value);
  Values reach = size, heavier = share;
  for (std::size_t i = 0; i < reach.size(); ++i) reach[i] += y.error[i];
  for (std::size_t i = 0; i < heavier.size(); ++i) heavier[i] += weights.error[i];
  const Values none(residual.size(), 0.0);
  const Values by_y = reference::moe_combine(y.error, share, none, top_k);
  const Values by_weight = reference::moe_combine(reach, weights.error, none, top_k);
  const Values summed = reference::moe_combine(reach, heavier, magnitudes(residual), top_k);
  for (std::size_t i = 0; i < out.value.size(); ++i) {
    out.error[i] = rounded(
        out.value[i],
        by_y[i] + by_weight[i] + gamma(top_k + 1, kFp32) * summed[i] + underflow(DType::kF32),
        dtype);
  }
  return out;
}

struct AttentionBounds {
  reference::AttentionResult value;
  Values out_error, lse_error;
};

// Scores: |δs| ≤ Δ = γ_{Dh+2} · scale · |q| · max |k| (Cauchy-Schwarz bounds Σ |q k|). A weight
// exp(s − m) then has relative error (e^Δ)² (δs and δm), and of its evaluation (2 |s − m| + 4) u32
// ≤ ε (with |s − m| ≤ 2 scale |q| max |k|; far from the maximum the weights vanish faster than that
// grows, so 20 is the most that counts). 16-bit kernels may round the weights, relative to at most
// 1, to the stored type before the second product: u, and in f16 2^-25 where subnormal. Numerator
// and denominator both sum n terms, and rescale once per block of keys: γ_{n+8}, twice, with the
// quotient's 4 u32. All of it is relative to Σ p |v|, which is at most max |v| for the absolute
// part.
inline AttentionBounds attention_bounded(const reference::AttentionProblem& problem,
                                         const Values& q, const Values& k_cache,
                                         const Values& v_cache, DType dtype) {
  AttentionBounds bounds;
  bounds.value = reference::attention(problem, q, k_cache, v_cache);
  const Values spread = reference::attention(problem, q, k_cache, magnitudes(v_cache)).out;
  const std::int64_t width = problem.head_size, group = problem.heads / problem.kv_heads;
  const double u = accumulator_roundoff(dtype);
  const double stored = dtype == DType::kF32 ? 0.0 : unit_roundoff(dtype);
  const auto norm_of = [&](const Values& values, std::int64_t row) {
    double squares = 0.0;
    for (std::int64_t i = row * width; i < (row + 1) * width; ++i) {
      squares += values[static_cast<std::size_t>(i)] * values[static_cast<std::size_t>(i)];
    }
    return std::sqrt(squares);
  };
  bounds.out_error.resize(q.size());
  bounds.lse_error.resize(bounds.value.lse.size());
  const std::int64_t last = problem.position + problem.tokens;
  const std::int64_t first = std::max<std::int64_t>(0, problem.first_key(0));
  Values key_norm(static_cast<std::size_t>(problem.kv_heads), 0.0), value_peak = key_norm;
  for (std::int64_t g = 0; g < problem.kv_heads; ++g) {
    for (std::int64_t j = first; j < last; ++j) {
      const std::int64_t row = g * problem.capacity + j;
      auto& norm = key_norm[static_cast<std::size_t>(g)];
      norm = std::max(norm, norm_of(k_cache, row));
      for (std::int64_t i = row * width; i < (row + 1) * width; ++i) {
        auto& peak = value_peak[static_cast<std::size_t>(g)];
        peak = std::max(peak, std::fabs(v_cache[static_cast<std::size_t>(i)]));
      }
    }
  }
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    const std::int64_t keys = std::max<std::int64_t>(0, problem.end_key(t) - problem.first_key(t));
    for (std::int64_t h = 0; h < problem.heads; ++h) {
      const std::int64_t row = t * problem.heads + h;
      const auto g = static_cast<std::size_t>(h / group);
      const double score = problem.scale * norm_of(q, row) * key_norm[g];
      const double moved = gamma(width + 2, u) * score;
      const double evaluation = (2.0 * std::min(2.0 * score, 20.0) + 4.0) * kFp32;
      const double relative =
          std::expm1(2.0 * moved) + evaluation + stored + 2.0 * gamma(keys + 8, u) + 4.0 * kFp32;
      const double subnormal =
          dtype == DType::kF16 ? underflow(dtype) * value_peak[g] * static_cast<double>(keys) : 0.0;
      for (std::int64_t i = row * width; i < (row + 1) * width; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const double error = 2.0 * relative * spread[at] + subnormal + underflow(DType::kF32);
        bounds.out_error[at] = rounded(bounds.value.out[at], error, dtype);
      }
      const auto at = static_cast<std::size_t>(h * problem.tokens + t);
      bounds.lse_error[at] = moved + evaluation + gamma(keys + 8, u) +
                             8.0 * kFp32 * (std::fabs(bounds.value.lse[at]) + score);
    }
  }
  return bounds;
}

}  // namespace engine::test
