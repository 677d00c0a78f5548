#include <algorithm>
#include <numeric>

#include "tests/support/backends.h"
#include "tests/support/bounds.h"
#include "tests/support/guarded.h"

namespace engine::test {
namespace {

struct Routed {
  Values experts, weights;
};

Routed route(Backend& backend, const Values& logits, std::int64_t experts, std::int64_t top_k,
             const Layout& layout = kDense) {
  const std::int64_t tokens = static_cast<std::int64_t>(logits.size()) / experts;
  const Guarded from(backend, DType::kF32, {tokens, experts}, logits, layout);
  Guarded chosen(backend, DType::kI32, {tokens, top_k}, layout);
  Guarded weights(backend, DType::kF32, {tokens, top_k}, layout);
  backend.ops().moe_route({.experts = chosen, .weights = weights, .logits = from});
  return {chosen.get("experts"), weights.get("weights")};
}

Values as_values(const std::vector<std::int32_t>& ids) { return {ids.begin(), ids.end()}; }

void check_route(Backend& backend, const Values& logits, std::int64_t experts, std::int64_t top_k,
                 const Layout& layout = kDense) {
  const std::string what = concat("moe_route E", experts, " S", top_k);
  const reference::Route expected = reference::moe_route(logits, experts, top_k);
  const Bounded weights = moe_weights_bounded(exact(logits), expected, experts, top_k);
  const Routed found = route(backend, logits, experts, top_k, layout);
  check_equal(what + " experts", found.experts, as_values(expected.experts));
  check_close(what + " weights", found.weights, weights.value, weights.error);
}

struct Count {
  std::int64_t tokens, experts, top_k;
};
constexpr Count kCounts[] = {{1, 8, 2},   {2, 8, 2},  {7, 8, 2},   {64, 8, 2},   {300, 8, 2},
                             {1, 5, 3},   {2, 5, 3},  {7, 5, 3},   {64, 5, 3},   {300, 5, 3},
                             {1, 1, 1},   {64, 1, 1}, {3, 4, 4},   {64, 8, 8},   {17, 17, 16},
                             {33, 64, 6}, {5, 33, 1}, {9, 128, 8}, {2, 1000, 10}};

TEST_CASE("moe_route of every count chooses and weighs as the oracle does") {
  // Distinct multiples of 1/64: decisions that fp32 can't get wrong.
  on_every_backend([](Backend& backend) {
    for (const Count& count : kCounts) {
      Random random(static_cast<std::uint64_t>(count.experts + count.tokens));
      Values logits;
      for (std::int64_t t = 0; t < count.tokens; ++t) {
        Values row(static_cast<std::size_t>(count.experts));
        std::iota(row.begin(), row.end(), -static_cast<double>(count.experts / 2));
        for (std::size_t i = row.size() - 1; i > 0; --i) {
          std::swap(row[i], row[static_cast<std::size_t>(random.below(std::int64_t(i) + 1))]);
        }
        for (const double value : row) logits.push_back(value / 64.0 + (t % 3 == 0 ? 40.0 : -7.0));
      }
      for (const Layout& layout : {kDense, kOddStrides}) {
        check_route(backend, logits, count.experts, count.top_k, layout);
      }
    }
  });
}

TEST_CASE("moe_route gives equal logits to the lowest index") {
  on_every_backend([](Backend& backend) {
    for (const Count& count : kCounts) {
      // Three values only, so that nearly every choice is among equals.
      Random random(7);
      Values logits;
      for (std::int64_t i = 0; i < count.tokens * count.experts; ++i) {
        logits.push_back(static_cast<double>(random.below(3)));
      }
      check_route(backend, logits, count.experts, count.top_k);
      check_route(backend, Values(logits.size(), 1.25), count.experts, count.top_k);
    }
  });
}

TEST_CASE("moe_route weighs logits that are far apart, very large, or minus infinity") {
  on_every_backend([](Backend& backend) {
    check_route(backend, {0, 30, -30, 80, 1, 60, -80, 59.5}, 8, 4);
    check_route(backend, {3e38, 0, -3e38, 1}, 4, 1);
    check_route(backend, {-1e30, -2e30, -1.5e30}, 3, 1);
    check_route(backend, {1e4, 1e4 - 1, 1e4 - 2, 1e4 - 3, 1e4 - 4}, 5, 3);
    const Routed masked = route(backend, {-kInfinity, 1, -kInfinity, 1, 0}, 5, 3);
    check_equal("masked experts", masked.experts, {1, 3, 4});
    const double share = 1.0 / (2.0 + std::exp(-1.0));
    check_close("masked weights", masked.weights, {share, share, 1.0 - 2.0 * share},
                Values(3, 30.0 * kFp32));
  });
}

TEST_CASE("moe_route of NaN gives NaN weights and experts that exist, to its token alone") {
  on_every_backend([](Backend& backend) {
    for (const double bad : {kNan, -kNan, kInfinity}) {
      for (std::size_t at = 0; at < 5; ++at) {
        Values logits = {0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 4, 3, 2, 1, 0};
        logits[5 + at] = bad;
        const Routed found = route(backend, logits, 5, 3);
        for (std::size_t s = 3; s < 6; ++s) {
          CHECK(std::isnan(found.weights[s]));
          CHECK(found.experts[s] >= 0);
          CHECK(found.experts[s] < 5);
        }
        const auto row = [](const Values& v, std::ptrdiff_t begin) {
          return Values(v.begin() + begin, v.begin() + begin + 3);
        };
        check_equal("the token before", row(found.experts, 0), {4, 3, 2});
        check_equal("the token after", row(found.experts, 6), {0, 1, 2});
        const Routed clean = route(backend, {0, 1, 2, 3, 4, 4, 3, 2, 1, 0}, 5, 3);
        check_equal("weights before", row(found.weights, 0), row(clean.weights, 0));
        check_equal("weights after", row(found.weights, 6), row(clean.weights, 3));
      }
    }
  });
}

}  // namespace
}  // namespace engine::test
