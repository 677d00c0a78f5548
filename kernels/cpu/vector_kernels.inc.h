// The bodies of the vector kernels, compiled once per instruction set.
//
// A file isa_<name>.cc includes simd_<name>.h, which gives Vec (kLanes floats) with set1, add, sub,
// mul, div, fma, max, min (the second operand where either is NaN), sum, max_lane, round, scale,
// load and store of f32, f16, bf16 and int8 rows at any address, and load_part / store_part of the
// first `count` < kLanes elements (others read as zero). Then it includes this file and makes its
// table. Everything is in an unnamed namespace and names no std:: template and no shared inline
// function: otherwise the linker could keep, for all callers, the copy compiled for the wider
// machine.
#include "kernels/cpu/kernels.h"

namespace engine::cpu {
namespace {

inline constexpr std::int64_t kLanes = Vec::kLanes;

// The loops over a register tile are marked to be unrolled in full: only then does the compiler
// keep the tile's array of sums in registers.

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

// e^x to within 2 ulp: x = n ln 2 + r with |r| ≤ ln 2 ÷ 2, e^r by its Taylor polynomial of degree 7
// (remainder below 2^-27). Past the range it gives 0 and +∞; NaN stays NaN.
inline Vec exp(Vec x) {
  const Vec bounded = min(set1(89.0f), max(set1(-104.0f), x));
  const Vec n = round(mul(bounded, set1(0x1.715476p+0f)));
  Vec r = fma(n, set1(-0x1.63p-1f), bounded);  // nine bits of ln 2: n times them is exact
  r = fma(n, set1(0x1.bd0106p-13f), r);
  Vec p = set1(1.0f / 5040.0f);
  p = fma(p, r, set1(1.0f / 720.0f));
  p = fma(p, r, set1(1.0f / 120.0f));
  p = fma(p, r, set1(1.0f / 24.0f));
  p = fma(p, r, set1(1.0f / 6.0f));
  p = fma(p, r, set1(0.5f));
  p = fma(mul(p, r), r, r);
  return scale(add(p, set1(1.0f)), n);
}

// Calls step(i, load, store) over [0, count) a vector at a time; the last call is partial.
template <typename Step>
inline void for_each_vector(std::int64_t count, const Step& step) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    step(
        i, [](const auto* p) { return load(p); }, [](auto* p, Vec v) { store(p, v); });
  }
  if (const std::int64_t rest = count - i; rest > 0) {
    step(
        i, [rest](const auto* p) { return load_part(p, rest); },
        [rest](auto* p, Vec v) { store_part(p, v, rest); });
  }
}

template <typename T>
void to_float_row(const void* source, float* destination, std::int64_t count) {
  const T* from = static_cast<const T*>(source);
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto& put) {
    put(destination + i, get(from + i));
  });
}

template <typename T>
void from_float_row(const float* source, void* destination, std::int64_t count) {
  T* to = static_cast<T*>(destination);
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto& put) {
    put(to + i, get(source + i));
  });
}

// The value v has once stored as T.
template <typename T>
inline Vec rounded(Vec v) {
  T lanes[Vec::kLanes];
  store(lanes, v);
  return load(lanes);
}
template <>
inline Vec rounded<float>(Vec v) {
  return v;
}

template <typename T>
void rmsnorm_row(const void* x, const void* weight, void* out, std::int64_t count, float eps) {
  const T* from = static_cast<const T*>(x);
  const T* scales = static_cast<const T*>(weight);
  T* to = static_cast<T*>(out);
  Vec squares[4] = {set1(0), set1(0), set1(0), set1(0)};
  std::int64_t turn = 0;
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto&) {
    const Vec v = get(from + i);
    squares[turn & 3] = fma(v, v, squares[turn & 3]);
    ++turn;
  });
  const float total = sum(add(add(squares[0], squares[1]), add(squares[2], squares[3])));
  const float root = __builtin_sqrtf(total / static_cast<float>(count) + eps);
  const Vec inverse = set1(1.0f / root);
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto& put) {
    put(to + i, mul(rounded<T>(mul(get(from + i), inverse)), get(scales + i)));
  });
}

template <typename T, typename W>
void layernorm_typed(const T* from, const W* weight, const W* bias, T* to, std::int64_t count,
                     float eps) {
  Vec sums[4] = {set1(0), set1(0), set1(0), set1(0)};
  std::int64_t turn = 0;
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto&) {
    sums[turn & 3] = add(sums[turn & 3], get(from + i));
    ++turn;
  });
  const float n = static_cast<float>(count);
  const float mean = sum(add(add(sums[0], sums[1]), add(sums[2], sums[3]))) / n;
  const Vec centre = set1(mean);
  Vec squares[2] = {set1(0), set1(0)};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vec v = sub(load(from + i), centre);
    squares[turn & 1] = fma(v, v, squares[turn & 1]);
    ++turn;
  }
  float total = sum(add(squares[0], squares[1]));
  for (; i < count; ++i) {  // a partial vector's missing lanes would count as −mean
    const float v = sum(load_part(from + i, 1)) - mean;
    total += v * v;
  }
  const Vec inverse = set1(1.0f / __builtin_sqrtf(total / n + eps));
  for_each_vector(count, [&](std::int64_t k, const auto& get, const auto& put) {
    const Vec normed = mul(sub(get(from + k), centre), inverse);
    put(to + k, fma(normed, get(weight + k), get(bias + k)));
  });
}

template <typename T>
void layernorm_row(const void* x, const void* weight, const void* bias, bool f32_weights, void* out,
                   std::int64_t count, float eps) {
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(out);
  if (f32_weights) {
    layernorm_typed(from, static_cast<const float*>(weight), static_cast<const float*>(bias), to,
                    count, eps);
  } else {
    layernorm_typed(from, static_cast<const T*>(weight), static_cast<const T*>(bias), to, count,
                    eps);
  }
}

// ½ x (1 + tanh z) = x ÷ (1 + exp(−2 z)).
template <typename T>
void gelu_row(const void* x, void* out, std::int64_t count) {
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(out);
  constexpr float kTwice = -2.0f * 0.79788456080286535588f;  // −2 √(2 ÷ π)
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto& put) {
    const Vec v = get(from + i);
    const Vec cubic = fma(mul(mul(v, v), v), set1(0.044715f), v);
    put(to + i, div(v, add(set1(1.0f), exp(mul(cubic, set1(kTwice))))));
  });
}

template <typename T>
void rope_head(const void* x, const float* table_row, void* out, std::int64_t half) {
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(out);
  for_each_vector(half, [&](std::int64_t i, const auto& get, const auto& put) {
    const Vec cosine = get(table_row + i), sine = get(table_row + half + i);
    const Vec low = get(from + i), high = get(from + half + i);
    put(to + i, sub(mul(low, cosine), mul(high, sine)));
    put(to + half + i, add(mul(high, cosine), mul(low, sine)));
  });
}

template <typename T>
void silu_mul_row(const void* gate, const void* up, void* out, std::int64_t count) {
  const T* g = static_cast<const T*>(gate);
  const T* u = static_cast<const T*>(up);
  T* to = static_cast<T*>(out);
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto& put) {
    const Vec z = get(g + i);
    const Vec silu = div(z, add(set1(1.0f), exp(sub(set1(0.0f), z))));
    put(to + i, mul(silu, get(u + i)));
  });
}

template <typename T>
void add_row(const void* a, const void* b, void* out, std::int64_t count) {
  const T* left = static_cast<const T*>(a);
  const T* right = static_cast<const T*>(b);
  T* to = static_cast<T*>(out);
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto& put) {
    put(to + i, add(get(left + i), get(right + i)));
  });
}

template <typename T>
void finish_row(const float* sums, const bf16_t* scales, const void* residual, void* out,
                std::int64_t count) {
  const T* more = static_cast<const T*>(residual);
  T* to = static_cast<T*>(out);
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto& put) {
    Vec v = get(sums + i);
    if (scales != nullptr) v = mul(v, get(scales + i));
    if (more != nullptr) v = add(v, get(more + i));
    put(to + i, v);
  });
}

// The rule of quant/int8.h, every division and rounding as there.
inline bool quantise_int8_row(const float* weights, std::int8_t* q, bf16_t* scale,
                              std::int64_t count) {
  const Vec zero = set1(0.0f);
  Vec largest = zero, not_finite = zero;  // 0 · w is NaN where w is NaN or infinite
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto&) {
    const Vec w = get(weights + i);
    largest = max(largest, max(w, sub(zero, w)));
    not_finite = fma(zero, w, not_finite);
  });
  const float bad = sum(not_finite);
  if (bad != bad) return false;
  constexpr float kLeast = 0x1p-23f;
  const float step = max_lane(largest) / 127.5f;
  const Vec divisor = rounded<bf16_t>(set1(step > kLeast ? step : kLeast));
  store_part(scale, divisor, 1);
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto& put) {
    const Vec nearest = round(div(get(weights + i), divisor));
    put(q + i, min(set1(127.0f), max(set1(-128.0f), nearest)));
  });
  return true;
}

// Writes, or adds, the sums of kRows × kTokens accumulators to out.
template <int kRows, int kTokens>
inline void put_sums(const Vec* acc, const DotBlock& block, float* out) {
  constexpr int kSums = kRows * kTokens, kFours = kSums / 4 * 4;
  float sums[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kFours; i += 4) store_sums4(acc + i, sums + i);
#pragma GCC unroll 32
  for (int i = kFours; i < kSums; ++i) sums[i] = sum(acc[i]);
#pragma GCC unroll 32
  for (int m = 0; m < kTokens; ++m) {
    float* to = out + m * block.out_stride;
#pragma GCC unroll 32
    for (int n = 0; n < kRows; ++n) {
      const float total = sums[n * kTokens + m];
      to[n] = block.accumulate ? to[n] + total : total;
    }
  }
}

// How a register tile multiplies: rows of W by rows of f32, each w vector widened as it is loaded.
template <typename W>
struct WidenedProduct {
  using Weight = W;
  using Input = float;
  using Operand = Vec;
  static constexpr std::int64_t kColumns = kLanes;  // of one operand
  template <typename T>
  static Operand get(const T* p) {
    return load(p);
  }
  template <typename T>
  static Operand get_part(const T* p, std::int64_t count) {
    return load_part(p, count);
  }
  static Vec accumulate(Vec sum, Operand w, Operand x) { return fma(w, x, sum); }
};

// One register tile of dot products: kRows rows of w by kTokens rows of x, all sums in registers,
// the columns walked once. Each w operand is loaded once for all tokens. kPrefetch asks for the
// rows of the next tile meanwhile.
template <typename P, int kRows, int kTokens, bool kPrefetch>
inline void dot_tile(const typename P::Weight* w, const typename P::Input* x, const DotBlock& block,
                     float* out) {
  Vec acc[kRows * kTokens];
#pragma GCC unroll 32
  for (Vec& a : acc) a = set1(0.0f);
  const auto step = [&](std::int64_t k, const auto& get) {
    typename P::Operand tokens[kTokens];
#pragma GCC unroll 32
    for (int m = 0; m < kTokens; ++m) tokens[m] = get(x + m * block.x_stride + k);
#pragma GCC unroll 32
    for (int n = 0; n < kRows; ++n) {
      const auto* from = w + n * block.w_stride + k;
      if constexpr (kPrefetch) __builtin_prefetch(from + kRows * block.w_stride, 0, 2);
      const typename P::Operand row = get(from);
#pragma GCC unroll 32
      for (int m = 0; m < kTokens; ++m) {
        acc[n * kTokens + m] = P::accumulate(acc[n * kTokens + m], row, tokens[m]);
      }
    }
  };
  std::int64_t k = 0;
  for (; k + P::kColumns <= block.columns; k += P::kColumns) {
    step(k, [](const auto* p) { return P::get(p); });
  }
  if (const std::int64_t rest = block.columns - k; rest > 0) {
    step(k, [rest](const auto* p) { return P::get_part(p, rest); });
  }
  put_sums<kRows, kTokens>(acc, block, out);
}

// All tokens by kRows rows of w, which stay in the first-level cache while x passes by.
template <typename P, int kRows>
inline void dot_row_tile(const DotBlock& block, std::int64_t row) {
  const auto* w = static_cast<const typename P::Weight*>(block.w) + row * block.w_stride;
  const auto* x = static_cast<const typename P::Input*>(block.x);
  float* out = block.out + row;
  std::int64_t m = 0;
  if (block.tokens >= kTileTokens) {
    dot_tile<P, kRows, kTileTokens, true>(w, x, block, out);
    m = kTileTokens;
  }
  for (; m + kTileTokens <= block.tokens; m += kTileTokens) {
    dot_tile<P, kRows, kTileTokens, false>(w, x + m * block.x_stride, block,
                                           out + m * block.out_stride);
  }
  x += m * block.x_stride;
  out += m * block.out_stride;
  if constexpr (kTileTokens > 3) {
    if (block.tokens - m == 3) dot_tile<P, kRows, 3, true>(w, x, block, out);
  }
  if (block.tokens - m == 2) dot_tile<P, kRows, 2, true>(w, x, block, out);
  if (block.tokens - m == 1) dot_tile<P, kRows, 1, true>(w, x, block, out);
}

// One or two tokens are bound by the bytes of w. Taller tiles read more rows side by side, each in
// order, and load x, whose fp32 row may not fit the first-level cache, once for all of them.
template <typename P, int kTokens>
inline std::int64_t dot_tall_tiles(const DotBlock& block) {
  constexpr int kRows = kTallSums / kTokens;
  const auto* w = static_cast<const typename P::Weight*>(block.w);
  const auto* x = static_cast<const typename P::Input*>(block.x);
  std::int64_t row = 0;
  for (; row + kRows <= block.rows; row += kRows) {
    dot_tile<P, kRows, kTokens, true>(w + row * block.w_stride, x, block, block.out + row);
  }
  return row;
}

// Every sum is added up in the order of the columns, whatever tile it is in.
template <typename P>
void dot_block_tiles(const DotBlock& block) {
  std::int64_t row = 0;
  if (block.tokens == 1) row = dot_tall_tiles<P, 1>(block);
  if (block.tokens == 2) row = dot_tall_tiles<P, 2>(block);
  for (; row + kTileRows <= block.rows; row += kTileRows) dot_row_tile<P, kTileRows>(block, row);
  for (; row < block.rows; ++row) dot_row_tile<P, 1>(block, row);
}

// acc[i][d] = acc[i][d] · factor[i] + Σ_j scores[i][j] · v[j][d] for kRows rows and kVecs vectors
// of d, the last of which holds `rest` lanes where rest > 0.
template <typename T, int kRows, int kVecs>
inline void weigh_tile(const Attend& pass, const T* v, std::int64_t keys, std::int64_t row,
                       std::int64_t d, const float* factor, std::int64_t rest) {
  Vec acc[kRows][kVecs];
#pragma GCC unroll 32
  for (int i = 0; i < kRows; ++i) {
    const float* from = pass.acc + (row + i) * pass.head_size + d;
#pragma GCC unroll 32
    for (int c = 0; c < kVecs; ++c) {
      const Vec old = rest > 0 ? load_part(from, rest) : load(from + c * kLanes);
      acc[i][c] = mul(old, set1(factor[row + i]));
    }
  }
  for (std::int64_t j = 0; j < keys; ++j) {
    const T* value = v + j * pass.v_stride + d;
#pragma GCC unroll 32
    for (int c = 0; c < kVecs; ++c) {
      const Vec lane = rest > 0 ? load_part(value, rest) : load(value + c * kLanes);
#pragma GCC unroll 32
      for (int i = 0; i < kRows; ++i) {
        acc[i][c] = fma(set1(pass.scores[(row + i) * kKeyBlock + j]), lane, acc[i][c]);
      }
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < kRows; ++i) {
    float* to = pass.acc + (row + i) * pass.head_size + d;
#pragma GCC unroll 32
    for (int c = 0; c < kVecs; ++c) {
      if (rest > 0) {
        store_part(to, acc[i][c], rest);
      } else {
        store(to + c * kLanes, acc[i][c]);
      }
    }
  }
}

template <typename T, int kRows>
inline void weigh_rows(const Attend& pass, const T* v, std::int64_t keys, std::int64_t row,
                       const float* factor) {
  constexpr int kVecs = 4;
  std::int64_t d = 0;
  for (; d + kVecs * kLanes <= pass.head_size; d += kVecs * kLanes) {
    weigh_tile<T, kRows, kVecs>(pass, v, keys, row, d, factor, 0);
  }
  for (; d + kLanes <= pass.head_size; d += kLanes) {
    weigh_tile<T, kRows, 1>(pass, v, keys, row, d, factor, 0);
  }
  if (d < pass.head_size) {
    weigh_tile<T, kRows, 1>(pass, v, keys, row, d, factor, pass.head_size - d);
  }
}

// Turns row `row` of raw scores into exp(s − max), zero for keys that the row does not see, and
// updates max and sum. Returns what the older sums must be multiplied by.
inline float soften_row(const Attend& pass, std::int64_t row, std::int64_t block,
                        std::int64_t keys) {
  constexpr float kInfinity = __builtin_inff();
  float* scores = pass.scores + row * kKeyBlock;
  const std::int64_t first = larger(pass.first[row] - block, 0);
  const std::int64_t last = smaller(pass.last[row] - block, keys);
  if (first >= last) {
    for (std::int64_t j = 0; j < keys; ++j) scores[j] = 0.0f;
    return 1.0f;
  }
  for (std::int64_t j = 0; j < first; ++j) scores[j] = -kInfinity;
  for (std::int64_t j = last; j < kKeyBlock; ++j) scores[j] = -kInfinity;
  Vec highest = set1(pass.max[row]);
  for (std::int64_t j = 0; j < kKeyBlock; j += kLanes) highest = max(load(scores + j), highest);
  const float old_max = pass.max[row], new_max = max_lane(highest);
  const float base = new_max == -kInfinity ? 0.0f : new_max;
  Vec total = set1(0.0f);
  for (std::int64_t j = 0; j < kKeyBlock; j += kLanes) {
    const Vec weight = exp(sub(load(scores + j), set1(base)));
    store(scores + j, weight);
    total = add(total, weight);
  }
  float factor[Vec::kLanes];
  store(factor, exp(set1(old_max - base)));
  pass.max[row] = new_max;
  pass.sum[row] = pass.sum[row] * factor[0] + sum(total);
  return factor[0];
}

// Asks for rows that are read next: values while their keys are scored, keys while the values of
// the block before are summed.
template <typename T>
inline void prefetch_rows(const T* rows, std::int64_t stride, std::int64_t count,
                          std::int64_t columns) {
  constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
  for (std::int64_t j = 0; j < count; ++j) {
    for (std::int64_t d = 0; d < columns; d += kLine) {
      __builtin_prefetch(rows + j * stride + d, 0, 2);
    }
  }
}

template <typename T>
void attend_pass(const Attend& pass) {
  static_assert(kKeyBlock % kLanes == 0);
  constexpr std::int64_t kMaxRows = kAttendRows;
  float factor[kMaxRows];
  for (std::int64_t from = pass.begin; from < pass.end;) {
    const std::int64_t to = smaller((from / kKeyBlock + 1) * kKeyBlock, pass.end);
    const std::int64_t keys = to - from;
    const T* k = static_cast<const T*>(pass.k) + from * pass.k_stride;
    const T* v = static_cast<const T*>(pass.v) + from * pass.v_stride;
    prefetch_rows(v, pass.v_stride, keys, pass.head_size);
    dot_block_tiles<WidenedProduct<T>>({.w = k,
                                        .w_stride = pass.k_stride,
                                        .rows = keys,
                                        .x = pass.q,
                                        .x_stride = pass.head_size,
                                        .tokens = pass.rows,
                                        .columns = pass.head_size,
                                        .out = pass.scores,
                                        .out_stride = kKeyBlock,
                                        .accumulate = false});
    prefetch_rows(k + keys * pass.k_stride, pass.k_stride, smaller(kKeyBlock, pass.end - to),
                  pass.head_size);
    for (std::int64_t i = 0; pass.change != nullptr && i < pass.rows; ++i) {
      pass.change(pass.context, i, from, keys, pass.scores + i * kKeyBlock);
    }
    for (std::int64_t i = 0; i < pass.rows; ++i) factor[i] = soften_row(pass, i, from, keys);
    std::int64_t row = 0;
    for (; row + 4 <= pass.rows; row += 4) weigh_rows<T, 4>(pass, v, keys, row, factor);
    for (; row < pass.rows; ++row) weigh_rows<T, 1>(pass, v, keys, row, factor);
    from = to;
  }
}

inline constexpr Kernels make_kernels(
    const char* name, const char* label, void (*dot_block_bf16)(const DotBlock&),
    void (*int8_to_bf16)(const std::int8_t*, bf16_t*, std::int64_t),
    double (*to_digits)(const float*, std::int64_t, std::uint8_t*, std::int64_t) = nullptr,
    void (*dot_block_digits)(const DigitBlock&) = nullptr) {
  return {
      .name = name,
      .label = label,
      .to_float = {to_float_row<float>, to_float_row<f16_t>, to_float_row<bf16_t>},
      .from_float = {from_float_row<float>, from_float_row<f16_t>, from_float_row<bf16_t>},
      .rmsnorm = {rmsnorm_row<float>, rmsnorm_row<f16_t>, rmsnorm_row<bf16_t>},
      .layernorm = {layernorm_row<float>, layernorm_row<f16_t>, layernorm_row<bf16_t>},
      .gelu = {gelu_row<float>, gelu_row<f16_t>, gelu_row<bf16_t>},
      .rope = {rope_head<float>, rope_head<f16_t>, rope_head<bf16_t>},
      .silu_mul = {silu_mul_row<float>, silu_mul_row<f16_t>, silu_mul_row<bf16_t>},
      .add = {add_row<float>, add_row<f16_t>, add_row<bf16_t>},
      .finish = {finish_row<float>, finish_row<f16_t>, finish_row<bf16_t>},
      .quantise_int8 = quantise_int8_row,
      .dot_block = {dot_block_tiles<WidenedProduct<float>>, dot_block_tiles<WidenedProduct<f16_t>>,
                    dot_block_tiles<WidenedProduct<bf16_t>>,
                    dot_block_tiles<WidenedProduct<std::int8_t>>},
      .dot_block_panels = {},
      .dot_block_bf16 = dot_block_bf16,
      .int8_to_bf16 = int8_to_bf16,
      .to_digits = to_digits,
      .dot_block_digits = dot_block_digits,
      .attend = {attend_pass<float>, attend_pass<f16_t>, attend_pass<bf16_t>},
  };
}

}  // namespace
}  // namespace engine::cpu
