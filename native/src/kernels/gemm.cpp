// Blocking: a panel of B stays in the second-level cache while the rows of a block of A pass; the tile of C stays in
// registers over the whole inner dimension (up to kInnerBlock), so C is touched once.
#include "gemm.hpp"

namespace hs::HS_ISA {
namespace {

constexpr int64_t kInnerBlock = 2048;
constexpr int64_t kRowBlockBytes = 256 << 10;

struct Tile {
  const float* const* a;  // where each segment of the first row's A begins, less a_offset
  int64_t a_offset;
  int64_t a_row;
  int64_t segments;
  const float* b;
  int64_t b_inner;
  int64_t inner;       // of a segment
  const float* start;  // the sums begin with these values (C, or a residual), or null
  int64_t start_row;
  const float* bias;  // and with these, per column, or null
  float* c;
  int64_t c_row;
  const float* residual;  // added after the activation, or null
  int64_t residual_row;
  int64_t last_lanes;  // columns in the last vector
  Limits limits;
};

template <int kRows, int kVectors>
void run_tile(const Tile& t) {
  Vec sum[kRows][kVectors];
  const bool full = t.last_lanes == kWidth;
  const auto read = [&](const float* p, int v) __attribute__((always_inline)) {
    return full || v + 1 < kVectors ? load(p + v * kWidth) : load_part(p + v * kWidth, t.last_lanes);
  };
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const Vec bias = t.bias != nullptr ? read(t.bias, v) : zero();
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) sum[r][v] = bias;
  }
  if (t.start != nullptr) {
    const float* const start = t.start;
    const int64_t start_row = t.start_row;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] += read(start + r * start_row, v);
  }

  const float* b = t.b;
  const int64_t a_row = t.a_row, b_inner = t.b_inner;
  for (int64_t s = 0; s < t.segments; ++s) {
    const float* a = t.a[s] + t.a_offset;
    for (const float* const a_end = a + t.inner; a != a_end; ++a, b += b_inner) {
      Vec row[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) row[v] = load(b + v * kWidth);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Vec x = broadcast(a[r * a_row]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] += x * row[v];
      }
    }
  }

  const Vec low = broadcast(t.limits.low), high = broadcast(t.limits.high);
  float* const c = t.c;
  const int64_t c_row = t.c_row;
  if (full &&
      t.residual == nullptr) {  // the usual case, free of branches: it counts where the inner dimension is short
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) store(c + r * c_row + v * kWidth, min_of(high, max_of(low, sum[r][v])));
    return;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Vec y = min_of(high, max_of(low, sum[r][v]));
      if (t.residual != nullptr) y += read(t.residual + r * t.residual_row, v);
      if (full || v + 1 < kVectors) {
        store(c + r * c_row + v * kWidth, y);
      } else {
        store_part(c + r * c_row + v * kWidth, t.last_lanes, y);
      }
    }
}

struct TileOfC {
  using Function = void (*)(const Tile&);
  template <int kRows, int kVectors>
  static constexpr Function function = run_tile<kRows, kVectors>;
};
constexpr auto kTiles = tile_table<TileOfC>();

}  // namespace

void gemm(const Gemm& g, Range rows, Range columns) {
  if (rows.begin >= rows.end || columns.begin >= columns.end) return;
  const Epilogue& end = g.epilogue;
  const bool in_registers = is_clip(end.activation.kind);
  const bool adds_after = end.residual != nullptr && end.residual_after;
  // A residual that is added last must not be overwritten by partial sums where C takes its place.
  const int64_t inner_blocks = adds_after || g.segments > 1 ? 1 : max_of(1, divide_up(g.inner, kInnerBlock));
  const int64_t inner_block = divide_up(g.inner, inner_blocks);
  const int64_t count = rows.end - rows.begin;
  const int64_t block_rows = max_of(kTileRows, kRowBlockBytes / (max_of(1, inner_block) * 4) / kTileRows * kTileRows);
  const int64_t row_blocks = divide_up(count, block_rows);
  alignas(64) float buffer[kTileRows * kPanel];

  for (int64_t kb = 0; kb < inner_blocks; ++kb) {
    const int64_t k = kb * inner_block;
    const bool first = kb == 0, last = kb + 1 == inner_blocks;
    const bool buffered = last && !in_registers;
    Tile tile{};
    tile.a_row = g.a_row;
    tile.b_inner = g.b_inner;
    tile.segments = g.segments;
    tile.a = g.segments > 1 ? g.a_segments : &g.a;
    tile.inner = g.segments > 1 ? g.inner / g.segments : min_of(inner_block, g.inner - k);
    tile.c_row = buffered ? kPanel : g.c_row;
    tile.residual_row = end.residual_row;
    tile.limits = limits_of(last ? end.activation : ActivationSpec{Activation::none, 0, 0});
    for (int64_t rb = 0; rb < row_blocks; ++rb) {
      const int64_t block_begin = rows.begin + count * rb / row_blocks;
      const int64_t block_end = rows.begin + count * (rb + 1) / row_blocks;
      // Rows are split evenly: 49 rows make tiles of 13, 12, 12, 12 rather than 14, 14, 14, 7.
      const int64_t tiles = divide_up(block_end - block_begin, kTileRows);
      for (int64_t n = columns.begin; n < columns.end; n += kPanel) {
        const int64_t width = min_of(kPanel, columns.end - n);
        const int64_t vectors = divide_up(width, kWidth);
        tile.last_lanes = width - (vectors - 1) * kWidth;
        tile.b = g.b + n / kPanel * g.b_panel + k * g.b_inner;
        tile.bias = first && end.bias != nullptr ? end.bias + n : nullptr;
        for (int64_t i = 0; i < tiles; ++i) {
          const int64_t m = block_begin + (block_end - block_begin) * i / tiles;
          const int64_t m_end = block_begin + (block_end - block_begin) * (i + 1) / tiles;
          float* c = g.c + m * g.c_row + n;
          const float* residual = end.residual == nullptr ? nullptr : end.residual + m * end.residual_row + n;
          tile.a_offset = m * g.a_row + k;
          tile.c = buffered ? buffer : c;
          if (!first || g.accumulate) {
            tile.start = c;
            tile.start_row = g.c_row;
          } else {
            tile.start = adds_after ? nullptr : residual;
            tile.start_row = end.residual_row;
          }
          tile.residual = last && adds_after && in_registers ? residual : nullptr;
          kTiles.of[m_end - m][vectors](tile);
          if (buffered)
            finish_tile(buffer, kPanel, c, g.c_row, m_end - m, width, end.activation, adds_after ? residual : nullptr,
                        end.residual_row);
        }
      }
    }
  }
}

void gemm(const Gemm& g, int thread, int threads) {
  // Splitting rows makes every thread read all of B, splitting columns all of A.
  if (g.rows >= g.columns && g.rows >= 2 * threads * kTileRows) {
    // Whole tiles while there are plenty of them, so that no thread ends on a thin one.
    const int64_t unit = g.rows >= 16 * threads * kTileRows ? kTileRows : 1;
    gemm(g, share(g.rows, unit, thread, threads), {0, g.columns});
  } else if (g.columns >= threads * kPanel) {
    gemm(g, {0, g.rows}, share(g.columns, kPanel, thread, threads));
  } else {
    gemm(g, share(g.rows, 1, thread, threads), {0, g.columns});
  }
}

void pack_panels(const float* b, int64_t row, int64_t column, int64_t inner, int64_t columns, float* packed) {
  for (int64_t n = 0; n < columns; n += kPanel) {
    const int64_t width = min_of(kPanel, columns - n);
    for (int64_t k = 0; k < inner; ++k) {
      for (int64_t i = 0; i < kPanel; ++i) *packed++ = i < width ? b[k * row + (n + i) * column] : 0.0f;
    }
  }
}

}  // namespace hs::HS_ISA
