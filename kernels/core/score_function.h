// Score functions of attention: what may be done to a score before the softmax, one table for every
// backend.
//
// With s the scaled score of the query at position q and the key at position k of head h, a row of
// the table gives
//   value(s, h, q, k)  the score that the softmax sees,
//   derivative         of that value with respect to s, given the value,
//   keys               the interval of keys that a query sees; both ends never fall as q grows,
//   queries            the interval of queries that see some key of an interval,
// all from the plain parameters in ScoreRule. What a mask hides has weight zero. Intervals are what
// lets a kernel skip blocks that are wholly masked. One row of the table — a struct, and its line
// in ENGINE_SCORE_FUNCTIONS — adds a score function.
//
// Sources: ALiBi: Press, Smith and Lewis, "Train short, test long" (2022), slopes 2^(−8 (h + 1) ÷
// H); prefix-LM: Raffel et al., "Exploring the limits of transfer learning" (2020); soft-cap: Gemma
// Team, "Gemma 2" (2024), cap · tanh(s ÷ cap).
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

#include "kernels/core/philox.h"  // ENGINE_HOST_DEVICE

namespace engine {

// [begin, end), empty where end ≤ begin.
struct KeyInterval {
  int begin, end;
};

enum class ScoreKind : int {
  kNoop,           // s
  kCausal,         // s, keys k ≤ q
  kRel,            // s + (q − k)
  kHeadBias,       // s + 2 h
  kAlibi,          // s − 2^(−8 (h + 1) ÷ H) (q − k)
  kSlidingWindow,  // s, keys 0 ≤ q − k < extent
  kDocument,       // s, keys of the query's own document
  kPrefixLm,       // s, keys k ≤ q or k < extent
  kSoftCap,        // cap · tanh(s ÷ cap)
};

// Everything that decides a score and who sees whom, as kernels get it. The plain causal flag and
// window of a call apply beside those of `kind`.
struct ScoreRule {
  ScoreKind kind = ScoreKind::kNoop;
  bool causal = false;
  int window = 0;                       // 0: none; else q − k < window
  int extent = 0;                       // kSlidingWindow, kPrefixLm
  float cap = 0.0f;                     // kSoftCap
  int heads = 1;                        // H
  const std::int32_t* spans = nullptr;  // kDocument: (P, 2): the document of position p is [a, b)
  int span_count = 0;                   // P
};

// What most rows of the table have: an affine score without a mask.
struct PlainScore {
  // value = s + slope · (q − k) + offset where kAffine.
  static constexpr bool kAffine = true;
  static constexpr bool kSloped = false, kUnitSlope = false;  // slope ≠ 0, slope = 1
  static constexpr bool kMasks = false;                       // hides keys
  static constexpr bool kGrows = false;                       // later queries see more keys
  ENGINE_HOST_DEVICE static float slope(const ScoreRule&, int) { return 0.0f; }
  ENGINE_HOST_DEVICE static float offset(const ScoreRule&, int) { return 0.0f; }
  // Where not kAffine.
  ENGINE_HOST_DEVICE static float value(const ScoreRule&, float s) { return s; }
  ENGINE_HOST_DEVICE static float derivative(const ScoreRule&, float) { return 1.0f; }
  // Cut `range` down.
  ENGINE_HOST_DEVICE static void clip_keys(const ScoreRule&, int, KeyInterval&) {}
  ENGINE_HOST_DEVICE static void clip_queries(const ScoreRule&, KeyInterval, KeyInterval&) {}
};

ENGINE_HOST_DEVICE inline int score_min(int a, int b) { return a < b ? a : b; }
ENGINE_HOST_DEVICE inline int score_max(int a, int b) { return a < b ? b : a; }

struct NoopScore : PlainScore {};

struct CausalScore : PlainScore {
  static constexpr bool kMasks = true, kGrows = true;
  ENGINE_HOST_DEVICE static void clip_keys(const ScoreRule&, int q, KeyInterval& range) {
    range.end = score_min(range.end, q + 1);
  }
  ENGINE_HOST_DEVICE static void clip_queries(const ScoreRule&, KeyInterval k, KeyInterval& range) {
    range.begin = score_max(range.begin, k.begin);
  }
};

struct RelScore : PlainScore {
  static constexpr bool kSloped = true, kUnitSlope = true;
  ENGINE_HOST_DEVICE static float slope(const ScoreRule&, int) { return 1.0f; }
};

struct HeadBiasScore : PlainScore {
  ENGINE_HOST_DEVICE static float offset(const ScoreRule&, int h) {
    return 2.0f * static_cast<float>(h);
  }
};

struct AlibiScore : PlainScore {
  static constexpr bool kSloped = true;
  ENGINE_HOST_DEVICE static float slope(const ScoreRule& rule, int h) {
    return -exp2f(-8.0f * static_cast<float>(h + 1) / static_cast<float>(rule.heads));
  }
};

struct SlidingWindowScore : PlainScore {
  static constexpr bool kMasks = true;
  ENGINE_HOST_DEVICE static void clip_keys(const ScoreRule& rule, int q, KeyInterval& range) {
    range.begin = score_max(range.begin, q - rule.extent + 1);
    range.end = score_min(range.end, q + 1);
  }
  ENGINE_HOST_DEVICE static void clip_queries(const ScoreRule& rule, KeyInterval k,
                                              KeyInterval& range) {
    range.begin = score_max(range.begin, k.begin);
    range.end = score_min(range.end, k.end - 1 + rule.extent);
  }
};

struct DocumentScore : PlainScore {
  static constexpr bool kMasks = true;
  ENGINE_HOST_DEVICE static int clamp(const ScoreRule& rule, int p) {
    return score_max(0, score_min(p, rule.span_count - 1));
  }
  ENGINE_HOST_DEVICE static void clip_keys(const ScoreRule& rule, int q, KeyInterval& range) {
    const int p = clamp(rule, q);
    range.begin = score_max(range.begin, rule.spans[2 * p]);
    range.end = score_min(range.end, rule.spans[2 * p + 1]);
  }
  ENGINE_HOST_DEVICE static void clip_queries(const ScoreRule& rule, KeyInterval k,
                                              KeyInterval& range) {
    range.begin = score_max(range.begin, rule.spans[2 * clamp(rule, k.begin)]);
    range.end = score_min(range.end, rule.spans[2 * clamp(rule, k.end - 1) + 1]);
  }
};

struct PrefixLmScore : PlainScore {
  static constexpr bool kMasks = true, kGrows = true;
  ENGINE_HOST_DEVICE static void clip_keys(const ScoreRule& rule, int q, KeyInterval& range) {
    range.end = score_min(range.end, score_max(q + 1, rule.extent));
  }
  ENGINE_HOST_DEVICE static void clip_queries(const ScoreRule& rule, KeyInterval k,
                                              KeyInterval& range) {
    if (k.begin >= rule.extent) range.begin = score_max(range.begin, k.begin);
  }
};

struct SoftCapScore : PlainScore {
  static constexpr bool kAffine = false;
  // tanh(x) = 1 − 2 ÷ (exp(2 x) + 1).
  ENGINE_HOST_DEVICE static float value(const ScoreRule& rule, float s) {
#if defined(__CUDA_ARCH__)
    // Approximations by the special function unit: within 2^-20 of the cap.
    const float e = __expf(s * __fdividef(2.0f, rule.cap));
    return fmaf(-2.0f * rule.cap, __fdividef(1.0f, e + 1.0f), rule.cap);
#else
    return rule.cap * (1.0f - 2.0f / (expf(2.0f * s / rule.cap) + 1.0f));
#endif
  }
  // 1 − tanh² from the value.
  ENGINE_HOST_DEVICE static float derivative(const ScoreRule& rule, float value) {
    const float t = value / rule.cap;
    return 1.0f - t * t;
  }
};

// The table: X(kind, name, row), in the order of ScoreKind.
#define ENGINE_SCORE_FUNCTIONS(X)                         \
  X(kNoop, "noop", NoopScore)                             \
  X(kCausal, "causal", CausalScore)                       \
  X(kRel, "rel", RelScore)                                \
  X(kHeadBias, "head_bias", HeadBiasScore)                \
  X(kAlibi, "alibi", AlibiScore)                          \
  X(kSlidingWindow, "sliding_window", SlidingWindowScore) \
  X(kDocument, "document", DocumentScore)                 \
  X(kPrefixLm, "prefix_lm", PrefixLmScore)                \
  X(kSoftCap, "soft_cap", SoftCapScore)

// Calls f(Row{}) with the row of `kind`.
template <typename F>
ENGINE_HOST_DEVICE auto visit_score(ScoreKind kind, F&& f) {
  switch (kind) {
#define ENGINE_SCORE_CASE(kind_name, name, row) \
  case ScoreKind::kind_name:                    \
    return f(row{});
    ENGINE_SCORE_FUNCTIONS(ENGINE_SCORE_CASE)
#undef ENGINE_SCORE_CASE
  }
  return f(NoopScore{});
}

constexpr std::string_view score_name(ScoreKind kind) {
  switch (kind) {
#define ENGINE_SCORE_CASE(kind_name, name, row) \
  case ScoreKind::kind_name:                    \
    return name;
    ENGINE_SCORE_FUNCTIONS(ENGINE_SCORE_CASE)
#undef ENGINE_SCORE_CASE
  }
  return "";
}

inline constexpr ScoreKind kScoreKinds[] = {
#define ENGINE_SCORE_CASE(kind_name, name, row) ScoreKind::kind_name,
    ENGINE_SCORE_FUNCTIONS(ENGINE_SCORE_CASE)
#undef ENGINE_SCORE_CASE
};

// The keys of [0, key_count) that the query at position q sees.
ENGINE_HOST_DEVICE inline KeyInterval visible_keys(const ScoreRule& rule, int q, int key_count) {
  KeyInterval range{0, key_count};
  if (rule.causal) range.end = score_min(range.end, q + 1);
  if (rule.window > 0) range.begin = score_max(range.begin, q - rule.window + 1);
  visit_score(rule.kind, [&](auto row) { decltype(row)::clip_keys(rule, q, range); });
  return range;
}

// Positions [begin, end) within `range` that holds every query that sees some key of `keys` (not
// empty).
ENGINE_HOST_DEVICE inline KeyInterval seeing_queries(const ScoreRule& rule, KeyInterval keys,
                                                     KeyInterval range) {
  if (rule.causal) range.begin = score_max(range.begin, keys.begin);
  if (rule.window > 0) range.end = score_min(range.end, keys.end - 1 + rule.window);
  visit_score(rule.kind, [&](auto row) { decltype(row)::clip_queries(rule, keys, range); });
  return range;
}

// Whether no query of [q.begin, q.end) sees a key of `keys` (neither empty).
ENGINE_HOST_DEVICE inline bool wholly_masked(const ScoreRule& rule, KeyInterval q, KeyInterval keys,
                                             int key_count) {
  const int begin = visible_keys(rule, q.begin, key_count).begin;
  const int end = visible_keys(rule, q.end - 1, key_count).end;
  return begin >= keys.end || end <= keys.begin;
}

ENGINE_HOST_DEVICE inline float score_slope(const ScoreRule& rule, int h) {
  return visit_score(rule.kind, [&](auto row) { return decltype(row)::slope(rule, h); });
}
ENGINE_HOST_DEVICE inline float score_offset(const ScoreRule& rule, int h) {
  return visit_score(rule.kind, [&](auto row) { return decltype(row)::offset(rule, h); });
}
ENGINE_HOST_DEVICE inline bool score_is_affine(ScoreKind kind) {
  return visit_score(kind, [](auto row) { return decltype(row)::kAffine; });
}
ENGINE_HOST_DEVICE inline bool score_is_sloped(ScoreKind kind) {
  return visit_score(kind, [](auto row) { return decltype(row)::kSloped; });
}
// Whether a key may be hidden from a query.
ENGINE_HOST_DEVICE inline bool score_masks(const ScoreRule& rule) {
  return rule.causal || rule.window > 0 ||
         visit_score(rule.kind, [](auto row) { return decltype(row)::kMasks; });
}
// The score that the softmax sees; `distance` is q − k.
ENGINE_HOST_DEVICE inline float score_value(const ScoreRule& rule, float s, int h, int distance) {
  return visit_score(rule.kind, [&](auto row) {
    using Row = decltype(row);
    if constexpr (Row::kAffine) {
      return s + (Row::slope(rule, h) * static_cast<float>(distance) + Row::offset(rule, h));
    } else {
      return Row::value(rule, s);
    }
  });
}
// Its derivative with respect to s, from the value.
ENGINE_HOST_DEVICE inline float score_derivative(const ScoreRule& rule, float value) {
  return visit_score(rule.kind, [&](auto row) { return decltype(row)::derivative(rule, value); });
}

}  // namespace engine
