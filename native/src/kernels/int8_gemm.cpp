// Blocking as in gemm.cpp: a panel of B stays in the first-level cache while the rows of a block of A pass, and a tile
// of C stays in registers over the whole inner dimension.
#include "int8_gemm.hpp"

namespace hs::HS_ISA {
namespace {

constexpr int64_t kRowBlockBytes = 256 << 10;
constexpr float kOne = 1.0f;

// Packed B: scale, bias and the value that sums start from, for each column; then the panels, each with kWidth columns
// x kDepth rows after the other.
struct Packed {
  const float *scale, *bias;
  const int32_t* start;
  const uint8_t* panels;
};
Packed packed_parts(const uint8_t* packed, int64_t columns) {
  const int64_t n = int8_vectors(columns) * kWidth;
  const auto* floats = reinterpret_cast<const float*>(packed);
  return {floats, floats + n, reinterpret_cast<const int32_t*>(floats + 2 * n), packed + round_up(3 * n * 4, 64)};
}
HS_INLINE int64_t panels_of(int64_t vectors) { return divide_up(vectors, kInt8PanelVectors); }

constexpr int64_t kVectorBytes = kWidth * kDepth;  // kDepth rows of a vector of columns of B

#if defined(HS_WITHOUT_BYTE_DOT)
using Left = Wide::Ints;
using Right = Wide::Ints;
HS_INLINE Left left_of(int32_t codes) { return Wide::broadcast(codes); }
HS_INLINE Right right_at(const uint8_t* b) { return Wide::load_pairs(b); }
HS_INLINE Wide::Ints dot(Wide::Ints sum, Left a, Right b) { return Wide::dot_pairs(sum, a, b); }
#else
using Left = Wide::Left;
using Right = Wide::Right;
HS_INLINE Left left_of(int32_t codes) { return Wide::left(Wide::broadcast(codes)); }
HS_INLINE Right right_at(const uint8_t* b) { return Wide::right(Wide::load(b)); }
HS_INLINE Wide::Ints dot(Wide::Ints sum, const Left& a, const Right& b) { return Wide::dot(sum, a, b); }
#endif

struct Tile {
  const Code* a;
  int64_t a_row;
  const float* row_scale;
  int64_t row_scale_step;  // 1, or 0: all rows have the same
  const uint8_t* b;
  int64_t b_step;  // bytes from kDepth rows of B to the next
  int64_t steps;   // inner / kDepth
  const float *scale, *bias;
  const int32_t* start;
  float* c;
  uint8_t* codes;
  int64_t c_row;
  const float* residual;
  int64_t residual_row;
  int64_t last_lanes;  // columns of C in the last vector
  bool residual_after;
  Limits limits;
};

template <int kVectors>
HS_INLINE void store_codes(uint8_t* to, const Wide::Ints* values, int64_t last_lanes) {
  if (kVectors > 1 && last_lanes == kWidth) {
    constexpr int kLast = kVectors - 1;
    const auto bytes = Wide::linear(values[0], values[1], values[kLast < 2 ? kLast : 2], values[kLast]);
    Wide::store_first(to, bytes, kVectors);
    return;
  }
#pragma GCC unroll 4
  for (int v = 0; v + 1 < kVectors; ++v) Wide::store_narrow(to + v * kWidth, values[v]);
  if (last_lanes == kWidth) {
    Wide::store_narrow(to + (kVectors - 1) * kWidth, values[kVectors - 1]);
  } else {
    uint8_t bytes[kWidth];
    Wide::store_narrow(bytes, values[kVectors - 1]);
    for (int64_t i = 0; i < last_lanes; ++i) to[(kVectors - 1) * kWidth + i] = bytes[i];
  }
}

// Where the sums go is a parameter of the template: with both ways in one function, GCC keeps the sums in memory.
template <int kRows, int kVectors, bool kCodes>
void run_tile(const Tile& t) {
  Wide::Ints sum[kRows][kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const Wide::Ints start = Wide::load(t.start + v * kWidth);
#pragma GCC unroll 24
    for (int r = 0; r < kRows; ++r) sum[r][v] = start;
  }
  const Code* a = t.a;
  const uint8_t* b = t.b;
  const int64_t a_row = t.a_row;
  for (int64_t k = 0; k < t.steps; ++k, a += kDepth, b += t.b_step) {
    Right right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = right_at(b + v * kVectorBytes);
#pragma GCC unroll 24
    for (int r = 0; r < kRows; ++r) {
      int32_t codes;
      __builtin_memcpy(&codes, a + r * a_row, 4);
      const Left left = left_of(codes);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = dot(sum[r][v], left, right[v]);
    }
  }

  Vec scale[kVectors], bias[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    scale[v] = load(t.scale + v * kWidth);
    bias[v] = load(t.bias + v * kWidth);
  }
  if constexpr (kCodes) {
    const Vec top = broadcast(255.0f);  // also keeps the conversion to int32 from overflowing
#pragma GCC unroll 24
    for (int r = 0; r < kRows; ++r) {
      const Vec row_scale = broadcast(t.row_scale[r * t.row_scale_step]);
      Wide::Ints values[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vec y = Vec(Wide::to_floats(sum[r][v])) * (scale[v] * row_scale) + bias[v];
        values[v] = Wide::rounded(min_of(y, top));
      }
      store_codes<kVectors>(t.codes + r * t.c_row, values, t.last_lanes);
    }
    return;
  }
  if constexpr (kCodes) return;
  const Vec low = broadcast(t.limits.low), high = broadcast(t.limits.high);
  const bool full = t.last_lanes == kWidth;
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) {
    const Vec row_scale = broadcast(t.row_scale[r * t.row_scale_step]);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const bool whole = full || v + 1 < kVectors;
      Vec y = Vec(Wide::to_floats(sum[r][v])) * (scale[v] * row_scale) + bias[v];
      Vec residual = zero();
      if (t.residual != nullptr) {
        const float* from = t.residual + r * t.residual_row + v * kWidth;
        residual = whole ? load(from) : load_part(from, t.last_lanes);
        if (!t.residual_after) y += residual;
      }
      y = min_of(high, max_of(low, y));
      if (t.residual != nullptr && t.residual_after) y += residual;
      float* to = t.c + r * t.c_row + v * kWidth;
      if (whole) {
        store(to, y);
      } else {
        store_part(to, t.last_lanes, y);
      }
    }
  }
}

constexpr int kMostRows = 12;
constexpr int rows_of_tile(int vectors) {
  return kTileVectors / vectors < kMostRows ? kTileVectors / vectors : kMostRows;
}
using TileFunction = void (*)(const Tile&);
struct TileTable {
  TileFunction of[2][kInt8PanelVectors + 1][kMostRows + 1];
};
template <int kVectors, int kRows>
constexpr void fill(TileTable& table) {
  table.of[0][kVectors][kRows] = run_tile<kRows, kVectors, false>;
  table.of[1][kVectors][kRows] = run_tile<kRows, kVectors, true>;
  if constexpr (kRows > 1) {
    fill<kVectors, kRows - 1>(table);
  } else if constexpr (kVectors > 1) {
    fill<kVectors - 1, rows_of_tile(kVectors - 1)>(table);
  }
}
constexpr TileTable make_tiles() {
  TileTable table{};
  fill<kInt8PanelVectors, rows_of_tile(kInt8PanelVectors)>(table);
  return table;
}
constexpr TileTable kTiles = make_tiles();

constexpr int kPanelColumns = kInt8PanelVectors * kWidth;

}  // namespace

int64_t int8_packed_bytes(int64_t inner, int64_t columns) {
  const int64_t n = int8_vectors(columns) * kWidth;
  return round_up(3 * n * 4, 64) + round_up(n * int8_inner(inner), 64);
}

void int8_pack(const int8_t* b, int64_t row, const float* scale, const float* bias, int32_t zero, int64_t inner,
               int64_t columns, uint8_t* packed) {
  const int64_t vectors = int8_vectors(columns), n = vectors * kWidth, panels = panels_of(vectors);
  const Packed parts = packed_parts(packed, columns);
  auto* scales = const_cast<float*>(parts.scale);
  auto* biases = const_cast<float*>(parts.bias);
  auto* starts = const_cast<int32_t*>(parts.start);
  for (int64_t i = 0; i < n; ++i) {
    int32_t sum = 0;
    for (int64_t k = 0; k < inner && i < columns; ++k) sum += b[k * row + i];
    scales[i] = i < columns ? scale[i] : 0.0f;
    biases[i] = i < columns ? bias[i] : 0.0f;
    starts[i] = (kDotOffset - zero) * sum;
  }
  auto* to = const_cast<uint8_t*>(parts.panels);
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t begin = vectors * p / panels * kWidth, end = vectors * (p + 1) / panels * kWidth;
    for (int64_t k = 0; k < int8_inner(inner); k += kDepth)
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = k; j < k + kDepth; ++j)
          *to++ = i < columns && j < inner ? static_cast<uint8_t>(b[j * row + i]) : 0;
  }
}

void int8_gemm(const Int8Gemm& g, Range rows, Range vectors) {
  if (rows.begin >= rows.end || vectors.begin >= vectors.end) return;
  const int64_t all_vectors = int8_vectors(g.columns), panels = panels_of(all_vectors), inner = int8_inner(g.inner);
  const Packed packed = packed_parts(g.packed, g.columns);
  const bool in_registers = g.codes != nullptr || is_clip(g.activation.kind);
  const int64_t count = rows.end - rows.begin;
  const int64_t row_blocks = divide_up(count * inner * static_cast<int64_t>(sizeof(Code)), kRowBlockBytes);
  alignas(64) float sums[kMostRows * kPanelColumns];
  Tile tile{};
  tile.row_scale_step = g.row_scale != nullptr;
  tile.a_row = g.a_row;
  tile.steps = inner / kDepth;
  tile.c_row = in_registers ? g.c_row : kPanelColumns;
  tile.residual_row = g.residual_row;
  tile.residual_after = g.residual_after;
  tile.limits = limits_of(g.activation);
  for (int64_t block = 0; block < row_blocks; ++block) {
    const int64_t block_begin = rows.begin + count * block / row_blocks;
    const int64_t block_end = rows.begin + count * (block + 1) / row_blocks;
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t panel_begin = all_vectors * p / panels, panel_end = all_vectors * (p + 1) / panels;
      const int64_t begin = max_of(panel_begin, vectors.begin), end = min_of(panel_end, vectors.end);
      if (begin >= end) continue;
      const int64_t n = begin * kWidth, width = min_of(end * kWidth, g.columns) - n;
      tile.b = packed.panels + panel_begin * kWidth * inner + (begin - panel_begin) * kVectorBytes;
      tile.b_step = (panel_end - panel_begin) * kVectorBytes;
      tile.scale = packed.scale + n;
      tile.bias = packed.bias + n;
      tile.start = packed.start + n;
      tile.last_lanes = width - (end - begin - 1) * kWidth;
      const int64_t tiles = divide_up(block_end - block_begin, rows_of_tile(static_cast<int>(end - begin)));
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t m = block_begin + (block_end - block_begin) * i / tiles;
        const int64_t m_end = block_begin + (block_end - block_begin) * (i + 1) / tiles;
        tile.a = g.a + m * g.a_row;
        tile.row_scale = g.row_scale == nullptr ? &kOne : g.row_scale + m;
        float* c = g.c == nullptr ? nullptr : g.c + m * g.c_row + n;
        tile.c = in_registers ? c : sums;
        tile.codes = g.codes == nullptr ? nullptr : g.codes + m * g.c_row + n;
        const float* residual = g.residual == nullptr ? nullptr : g.residual + m * g.residual_row + n;
        const bool adds_later = !in_registers && g.residual_after;
        tile.residual = adds_later ? nullptr : residual;
        kTiles.of[g.codes != nullptr][end - begin][m_end - m](tile);
        if (!in_registers)
          finish_tile(sums, kPanelColumns, c, g.c_row, m_end - m, width, g.activation, adds_later ? residual : nullptr,
                      g.residual_row);
      }
    }
  }
}

}  // namespace hs::HS_ISA
