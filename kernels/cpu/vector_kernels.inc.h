// The bodies of the vector kernels, compiled once per instruction set.
//
// A file isa_<name>.cc includes simd_<name>.h, which gives Vec (kLanes floats) with set1, add, sub,
// mul, div, fma, max, min (the second operand where either is NaN), sum, max_lane, round, scale,
// load and store of f32, f16 and bf16 rows at any address, and load_part / store_part of the first
// `count` < kLanes elements (others read as zero). Then it includes this file and makes its table.
// Everything is in an unnamed namespace and names no std:: template and no shared inline function:
// otherwise the linker could keep, for all callers, the copy compiled for the wider machine.
#include "kernels/cpu/kernels.h"

namespace engine::cpu {
namespace {

inline constexpr std::int64_t kLanes = Vec::kLanes;

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
void finish_row(const float* sums, const void* residual, void* out, std::int64_t count) {
  const T* more = static_cast<const T*>(residual);
  T* to = static_cast<T*>(out);
  for_each_vector(count, [&](std::int64_t i, const auto& get, const auto& put) {
    Vec v = get(sums + i);
    if (more != nullptr) v = add(v, get(more + i));
    put(to + i, v);
  });
}

// One register tile of dot products: kRows rows of w by kTokens rows of x, all sums in registers,
// the columns walked once. Each w vector is loaded and widened once for all tokens.
template <typename W, int kRows, int kTokens>
inline void dot_tile(const W* w, const float* x, const DotBlock& block, float* out) {
  Vec acc[kRows][kTokens];
  for (int n = 0; n < kRows; ++n) {
    for (int m = 0; m < kTokens; ++m) acc[n][m] = set1(0.0f);
  }
  for_each_vector(block.columns, [&](std::int64_t k, const auto& get, const auto&) {
    Vec tokens[kTokens];
    for (int m = 0; m < kTokens; ++m) tokens[m] = get(x + m * block.x_stride + k);
    for (int n = 0; n < kRows; ++n) {
      const Vec row = get(w + n * block.w_stride + k);
      for (int m = 0; m < kTokens; ++m) acc[n][m] = fma(row, tokens[m], acc[n][m]);
    }
  });
  for (int m = 0; m < kTokens; ++m) {
    float* to = out + m * block.out_stride;
    for (int n = 0; n < kRows; ++n) {
      const float total = sum(acc[n][m]);
      to[n] = block.accumulate ? to[n] + total : total;
    }
  }
}

template <typename W, int kRows>
inline void dot_row_tile(const DotBlock& block, std::int64_t row) {
  const W* w = static_cast<const W*>(block.w) + row * block.w_stride;
  const float* x = static_cast<const float*>(block.x);
  std::int64_t m = 0;
  for (; m + kTileTokens <= block.tokens; m += kTileTokens) {
    dot_tile<W, kRows, kTileTokens>(w, x + m * block.x_stride, block,
                                    block.out + m * block.out_stride + row);
  }
  for (; m + 2 <= block.tokens; m += 2) {
    dot_tile<W, kRows, 2>(w, x + m * block.x_stride, block, block.out + m * block.out_stride + row);
  }
  for (; m < block.tokens; ++m) {
    dot_tile<W, kRows, 1>(w, x + m * block.x_stride, block, block.out + m * block.out_stride + row);
  }
}

// Row tiles outside, so that a tile of w stays in the first-level cache while x passes by.
template <typename W>
void dot_block_rows(const DotBlock& block) {
  std::int64_t row = 0;
  for (; row + kTileRows <= block.rows; row += kTileRows) dot_row_tile<W, kTileRows>(block, row);
  for (; row < block.rows; ++row) dot_row_tile<W, 1>(block, row);
}

// acc[i][d] = acc[i][d] · factor[i] + Σ_j scores[i][j] · v[j][d] for kRows rows and kVecs vectors
// of d, the last of which holds `rest` lanes where rest > 0.
template <typename T, int kRows, int kVecs>
inline void weigh_tile(const Attend& pass, const T* v, std::int64_t keys, std::int64_t row,
                       std::int64_t d, const float* factor, std::int64_t rest) {
  Vec acc[kRows][kVecs];
  for (int i = 0; i < kRows; ++i) {
    const float* from = pass.acc + (row + i) * pass.head_size + d;
    for (int c = 0; c < kVecs; ++c) {
      const Vec old = rest > 0 ? load_part(from, rest) : load(from + c * kLanes);
      acc[i][c] = mul(old, set1(factor[row + i]));
    }
  }
  for (std::int64_t j = 0; j < keys; ++j) {
    const T* value = v + j * pass.v_stride + d;
    for (int c = 0; c < kVecs; ++c) {
      const Vec lane = rest > 0 ? load_part(value, rest) : load(value + c * kLanes);
      for (int i = 0; i < kRows; ++i) {
        acc[i][c] = fma(set1(pass.scores[(row + i) * kKeyBlock + j]), lane, acc[i][c]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    float* to = pass.acc + (row + i) * pass.head_size + d;
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
    dot_block_rows<T>({.w = k,
                       .w_stride = pass.k_stride,
                       .rows = keys,
                       .x = pass.q,
                       .x_stride = pass.head_size,
                       .tokens = pass.rows,
                       .columns = pass.head_size,
                       .out = pass.scores,
                       .out_stride = kKeyBlock,
                       .accumulate = false});
    for (std::int64_t i = 0; i < pass.rows; ++i) factor[i] = soften_row(pass, i, from, keys);
    std::int64_t row = 0;
    for (; row + 4 <= pass.rows; row += 4) weigh_rows<T, 4>(pass, v, keys, row, factor);
    for (; row < pass.rows; ++row) weigh_rows<T, 1>(pass, v, keys, row, factor);
    from = to;
  }
}

inline constexpr Kernels make_kernels(const char* name, const char* label,
                                      void (*dot_block_bf16)(const DotBlock&)) {
  return {
      .name = name,
      .label = label,
      .to_float = {to_float_row<float>, to_float_row<f16_t>, to_float_row<bf16_t>},
      .from_float = {from_float_row<float>, from_float_row<f16_t>, from_float_row<bf16_t>},
      .rmsnorm = {rmsnorm_row<float>, rmsnorm_row<f16_t>, rmsnorm_row<bf16_t>},
      .rope = {rope_head<float>, rope_head<f16_t>, rope_head<bf16_t>},
      .silu_mul = {silu_mul_row<float>, silu_mul_row<f16_t>, silu_mul_row<bf16_t>},
      .add = {add_row<float>, add_row<f16_t>, add_row<bf16_t>},
      .finish = {finish_row<float>, finish_row<f16_t>, finish_row<bf16_t>},
      .dot_block = {dot_block_rows<float>, dot_block_rows<f16_t>, dot_block_rows<bf16_t>},
      .dot_block_bf16 = dot_block_bf16,
      .attend = {attend_pass<float>, attend_pass<f16_t>, attend_pass<bf16_t>},
  };
}

}  // namespace
}  // namespace engine::cpu
