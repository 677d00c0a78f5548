// The vector kernels of the CPU backend: one table of plain functions per instruction set.
//
// Every function here is serial and works on raw rows; the files one level up (cpu/<op>.cc) check
// operands, split the work over threads and pick pointers. The same templates
// (vector_kernels.inc.h) are compiled once per instruction set, each into a namespace of its own,
// so that no inline function built for a wider machine can be linked into common code.
//
// Arithmetic is fp32; f16 and bf16 are storage, rounded to nearest even. Every result is a function
// of its operands alone: no thread count, no address enters it. All functions are pure and may run
// on any number of threads at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/dtype.h"
#include "quant/format.h"

namespace engine::cpu {

// Index of a floating-point dtype in the arrays below.
constexpr std::size_t type_index(DType dtype) { return static_cast<std::size_t>(dtype); }
static_assert(type_index(DType::kF32) == 0 && type_index(DType::kF16) == 1 &&
              type_index(DType::kBF16) == 2);
inline constexpr std::size_t kFloatTypes = 3;

// Index of a weight format in the arrays below.
constexpr std::size_t weight_index(QuantFormat format) { return static_cast<std::size_t>(format); }
static_assert(weight_index(QuantFormat::kF32) == 0 && weight_index(QuantFormat::kF16) == 1 &&
              weight_index(QuantFormat::kBF16) == 2 && weight_index(QuantFormat::kInt8) == 3);
inline constexpr std::size_t kWeightFormats = 4;

// out[m][n] = Σ_k w[n][k] · x[m][k], added to what is there where `accumulate`. Strides count
// elements. x is f32 (dot_block) or bf16 (dot_block_bf16).
struct DotBlock {
  const void* w;          // (rows, columns)
  std::int64_t w_stride;  // elements between rows
  std::int64_t rows;
  const void* x;  // (tokens, columns)
  std::int64_t x_stride;
  std::int64_t tokens;
  std::int64_t columns;
  float* out;  // (tokens, rows)
  std::int64_t out_stride;
  bool accumulate;
};

// The most columns of a block for dot_block_panels.
inline constexpr std::int64_t kPanelColumns = 256;

// A row of x in fixed point: x[k] = unit · (Σ_d digit_d[k] · 256^d − kDigitZero), rounded to
// nearest even, so that the greatest |x| takes 22 or 23 bits: the error of any element is at most
// 2^-22 of it.
inline constexpr std::int64_t kDigits = 3, kDigitZero = std::int64_t{1} << 23;

// out[m][n] = unit[m] · Σ_k w[n][k] · (x[m][k] ÷ unit[m]), added to what is there where
// `accumulate`; sums of integers, exact, rounded once.
struct DigitBlock {
  const std::int8_t* w;   // (rows, columns)
  std::int64_t w_stride;  // elements between rows
  std::int64_t rows;
  const std::uint8_t* digits;  // (tokens, kDigits, columns, up to a multiple of 64)
  std::int64_t plane;          // bytes between digits of a token
  const double* units;         // (tokens)
  std::int64_t tokens;
  std::int64_t columns;  // at most 8192
  float* out;            // (tokens, rows)
  std::int64_t out_stride;
  bool accumulate;
};

// Keys scored at a time by attend; a power of two. Blocks start at multiples of it, so that the
// order of every sum depends on positions alone.
inline constexpr std::int64_t kKeyBlock = 64;
// The most query rows of one pass.
inline constexpr std::int64_t kAttendRows = 32;

// One pass of online softmax attention: query rows that share a key/value head over the cache rows
// [begin, end). max, sum and acc are carried from pass to pass: they start as −∞, 0 and 0.
struct Attend {
  const float* q;     // (rows, head_size), scaled
  std::int64_t rows;  // at most kAttendRows
  std::int64_t head_size;
  const void* k;  // (·, head_size) row 0 of the cache
  std::int64_t k_stride;
  const void* v;
  std::int64_t v_stride;
  std::int64_t begin;
  std::int64_t end;
  const std::int64_t* first;  // (rows): row i sees keys [first[i], last[i])
  const std::int64_t* last;
  float* acc;     // (rows, head_size): Σ exp(s − max) v
  float* max;     // (rows)
  float* sum;     // (rows): Σ exp(s − max)
  float* scores;  // (rows, kKeyBlock) scratch
  // Changes the scores of `row` for the keys [key, key + count) in place; null: left as they are.
  void (*change)(const void* context, std::int64_t row, std::int64_t key, std::int64_t count,
                 float* scores) = nullptr;
  const void* context = nullptr;
};

struct Kernels {
  const char* name;   // "avx512"
  const char* label;  // "AVX-512"

  // Conversions of `count` elements; exact up, rounded to nearest even down.
  void (*to_float[kFloatTypes])(const void* source, float* destination, std::int64_t count);
  void (*from_float[kFloatTypes])(const float* source, void* destination, std::int64_t count);

  // One row of RMSNorm as ops.h defines it. out may be x.
  void (*rmsnorm[kFloatTypes])(const void* x, const void* weight, void* out, std::int64_t count,
                               float eps);
  // One row of layernorm as ops.h defines it; weight and bias of the row's type, or f32. out may be
  // x.
  void (*layernorm[kFloatTypes])(const void* x, const void* weight, const void* bias,
                                 bool f32_weights, void* out, std::int64_t count, float eps);
  void (*gelu[kFloatTypes])(const void* x, void* out, std::int64_t count);
  // One head of rotary embedding: table_row holds `half` cosines, then `half` sines. out may be x.
  void (*rope[kFloatTypes])(const void* x, const float* table_row, void* out, std::int64_t half);
  void (*silu_mul[kFloatTypes])(const void* gate, const void* up, void* out, std::int64_t count);
  void (*add[kFloatTypes])(const void* a, const void* b, void* out, std::int64_t count);
  // out = sums (· scales) (+ residual), rounded once; residual is of out's type, may be out or
  // null, as may scales.
  void (*finish[kFloatTypes])(const float* sums, const bf16_t* scales, const void* residual,
                              void* out, std::int64_t count);
  // One row by the rule of quant/int8.h, bit for bit. False where a weight is NaN or infinite: then
  // nothing is written.
  bool (*quantise_int8)(const float* weights, std::int8_t* q, bf16_t* scale, std::int64_t count);

  // By the format of w. Scales are not applied: see finish.
  void (*dot_block[kWeightFormats])(const DotBlock& block);
  // The same for many tokens, at most kPanelColumns columns; null where dot_block or
  // dot_block_bf16 serves them.
  void (*dot_block_panels[kWeightFormats])(const DotBlock& block);
  // w and x both bf16, products exact and sums fp32; null where the machine has no such dot
  // product. Subnormal operands and sums count as zero.
  void (*dot_block_bf16)(const DotBlock& block);
  // Exact: a byte has fewer bits than bf16's significand. Null as dot_block_bf16.
  void (*int8_to_bf16)(const std::int8_t* source, bf16_t* destination, std::int64_t count);
  // One row into digits, planes `plane` bytes apart; returns the unit: 0 where all is zero, NaN
  // where something is not finite. Null as dot_block_bf16.
  double (*to_digits)(const float* x, std::int64_t count, std::uint8_t* digits, std::int64_t plane);
  // int8 weights by digits. Null as dot_block_bf16.
  void (*dot_block_digits)(const DigitBlock& block);
  // By the type of the cache.
  void (*attend[kFloatTypes])(const Attend& pass);
};

// The tables that this build holds. The vector ones may only be called on machines that have the
// instructions: see choose_kernels in isa.h.
const Kernels& portable_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();       // F, BW, VL, DQ
const Kernels& avx512_bf16_kernels();  // and BF16 and VNNI
#endif

}  // namespace engine::cpu
