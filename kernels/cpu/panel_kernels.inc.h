// Products of many tokens where f32 has no better instruction than a fused multiply-add.
//
// Limit: two vector FMA a cycle. A tile of dot products (vector_kernels.inc.h) widens its rows of W
// again for every few tokens and adds up the lanes of every sum; both cost as much as a fifth of
// its multiplications. Here kPanelRows rows of W are widened once, with the columns outermost, into
// a panel that stays in the first-level cache, and all tokens pass by: each column is kPanelVecs
// vectors of the panel by one element of each of kPanelTokens tokens, so that a lane is one output
// channel and no lanes are added up. 7 loads for 12 FMA in 16 registers.
//
// An isa_<name>.cc includes this behind vector_kernels.inc.h; its simd_<name>.h also gives
// transpose(): kLanes vectors, element i of vector n to element n of vector i.
namespace engine::cpu {
namespace {

inline constexpr int kPanelVecs = 3, kPanelTokens = 4;
inline constexpr std::int64_t kPanelRows = kPanelVecs * kLanes;
static_assert(kPanelColumns % kLanes == 0);

// panel[k][n] = w[n][k] for `rows` rows, at most kPanelRows; rows up to a whole vector are zero.
template <typename W>
void fill_panel(const W* w, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                float* panel) {
  for (std::int64_t first = 0; first < rows; first += kLanes) {
    const std::int64_t count = smaller(kLanes, rows - first);
    const W* from = w + first * stride;
    const auto step = [&](std::int64_t k, const auto& get) {
      Vec square[kLanes];
      if (count == kLanes) {
#pragma GCC unroll 32
        for (std::int64_t n = 0; n < kLanes; ++n) square[n] = get(from + n * stride + k);
      } else {
        for (std::int64_t n = 0; n < kLanes; ++n) {
          square[n] = n < count ? get(from + n * stride + k) : set1(0.0f);
        }
      }
      transpose(square);
#pragma GCC unroll 32
      for (std::int64_t i = 0; i < kLanes; ++i) {
        store(panel + (k + i) * kPanelRows + first, square[i]);
      }
    };
    std::int64_t k = 0;
    for (; k + kLanes <= columns; k += kLanes) step(k, [](const W* p) { return load(p); });
    if (const std::int64_t rest = columns - k; rest > 0) {
      step(k, [rest](const W* p) { return load_part(p, rest); });
    }
  }
}

// kTokens rows of x by the first kVecs vectors of a panel, of whose channels `rows` exist.
template <int kTokens, int kVecs>
[[gnu::noinline]] void panel_tile(const float* panel, const float* x, const DotBlock& block,
                                  std::int64_t rows, float* out) {
  Vec acc[kTokens][kVecs];
#pragma GCC unroll 32
  for (int m = 0; m < kTokens; ++m) {
#pragma GCC unroll 32
    for (int j = 0; j < kVecs; ++j) acc[m][j] = set1(0.0f);
  }
  const auto step = [&](std::int64_t k) {
    Vec column[kVecs];
#pragma GCC unroll 32
    for (int j = 0; j < kVecs; ++j) column[j] = load(panel + k * kPanelRows + j * kLanes);
#pragma GCC unroll 32
    for (int m = 0; m < kTokens; ++m) {
      const Vec element = set1(x[m * block.x_stride + k]);
#pragma GCC unroll 32
      for (int j = 0; j < kVecs; ++j) acc[m][j] = fma(column[j], element, acc[m][j]);
    }
  };
  // Unrolled, the columns of several steps would push sums out of the registers.
#pragma GCC unroll 1
  for (std::int64_t k = 0; k < block.columns; ++k) step(k);
#pragma GCC unroll 32
  for (int m = 0; m < kTokens; ++m) {
#pragma GCC unroll 32
    for (int j = 0; j < kVecs; ++j) {
      float* to = out + m * block.out_stride + j * kLanes;
      const std::int64_t count = rows - j * kLanes;
      if (count >= kLanes) {
        store(to, block.accumulate ? add(load(to), acc[m][j]) : acc[m][j]);
      } else {
        store_part(to, block.accumulate ? add(load_part(to, count), acc[m][j]) : acc[m][j], count);
      }
    }
  }
}

// All tokens by one panel, asking meanwhile for the rows at `next`, of which the next panel is
// made.
template <typename W, int kVecs>
void multiply_panel(const float* panel, const DotBlock& block, std::int64_t row, std::int64_t rows,
                    const W* next) {
  constexpr std::int64_t kLine = 64 / std::int64_t{sizeof(W)};
  const std::int64_t lines_of_row = (block.columns + kLine - 1) / kLine;
  const std::int64_t tiles = (block.tokens + kPanelTokens - 1) / kPanelTokens;
  const std::int64_t lines_of_tile = (kPanelRows * lines_of_row + tiles - 1) / tiles;
  std::int64_t next_row = 0, next_line = 0;
  const auto* x = static_cast<const float*>(block.x);
  for (std::int64_t m = 0; m < block.tokens; m += kPanelTokens) {
    for (std::int64_t i = 0; i < lines_of_tile && next_row < kPanelRows; ++i) {
      __builtin_prefetch(next + next_row * block.w_stride + next_line * kLine, 0, 2);
      if (++next_line == lines_of_row) next_line = 0, ++next_row;
    }
    const float* from = x + m * block.x_stride;
    float* to = block.out + m * block.out_stride + row;
    switch (smaller(kPanelTokens, block.tokens - m)) {
      case 1:
        panel_tile<1, kVecs>(panel, from, block, rows, to);
        break;
      case 2:
        panel_tile<2, kVecs>(panel, from, block, rows, to);
        break;
      case 3:
        panel_tile<3, kVecs>(panel, from, block, rows, to);
        break;
      default:
        panel_tile<kPanelTokens, kVecs>(panel, from, block, rows, to);
    }
  }
}

// A sum is added up in the order of its columns, one fused multiply-add each, wherever it lies.
template <typename W>
void dot_block_panels(const DotBlock& block) {
  alignas(64) float panel[kPanelColumns * kPanelRows];
  const W* w = static_cast<const W*>(block.w);
  for (std::int64_t row = 0; row < block.rows; row += kPanelRows) {
    const std::int64_t rows = smaller(kPanelRows, block.rows - row);
    const W* from = w + row * block.w_stride;
    fill_panel(from, block.w_stride, rows, block.columns, panel);
    // Behind the last rows of a block its next columns.
    const W* next =
        row + rows < block.rows ? from + kPanelRows * block.w_stride : w + block.columns;
    if (rows > 2 * kLanes) {
      multiply_panel<W, 3>(panel, block, row, rows, next);
    } else if (rows > kLanes) {
      multiply_panel<W, 2>(panel, block, row, rows, next);
    } else {
      multiply_panel<W, 1>(panel, block, row, rows, next);
    }
  }
}

}  // namespace
}  // namespace engine::cpu
