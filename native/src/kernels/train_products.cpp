// Products that only training needs: A^T B of weight gradients, and those of bfloat16 with pairwise dot products
// (AVX512_BF16; other instruction sets keep float32 blocks and never call these). Tiles are those of gemm.cpp.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

// What one row of B adds to the sums: a row of float32, or two of bfloat16 by pairs.
struct OfFloats {
  using Value = float;
  using Row = Vec;
  HS_INLINE Row load_row(const float* p) { return load(p); }
  HS_INLINE Vec add_product(Vec sum, float a, Row b) { return sum + broadcast(a) * b; }
};
#if defined(__AVX512BF16__)
struct OfPairs {
  using Value = uint32_t;
  using Row = UintVec;
  HS_INLINE Row load_row(const uint32_t* p) {
    Row v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  HS_INLINE Vec add_product(Vec sum, uint32_t a, Row b) {
    return Vec(_mm512_dpbf16_ps(__m512(sum), __m512bh(_mm512_set1_epi32(static_cast<int>(a))), __m512bh(b)));
  }
};
#endif

// One tile of C += A^T B.
template <class Product, int kRows, int kVectors>
void transposed_tile(const typename Product::Value* a, int64_t a_row, const typename Product::Value* b, int64_t b_row,
                     int64_t rows, float* c, int64_t c_row, int64_t last_lanes) {
  Vec sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = zero();
  for (int64_t k = 0; k < rows; ++k, a += a_row, b += b_row) {
    typename Product::Row row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) row[v] = Product::load_row(b + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = Product::add_product(sum[r][v], a[r], row[v]);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* p = c + r * c_row + v * kWidth;
      const int64_t lanes = v + 1 < kVectors ? kWidth : last_lanes;
      Float32::write(p, lanes, Float32::read(p, lanes) + sum[r][v]);
    }
}
template <class Product>
struct TransposedTile {
  using Function = void (*)(const typename Product::Value*, int64_t, const typename Product::Value*, int64_t, int64_t,
                            float*, int64_t, int64_t);
  template <int kRows, int kVectors>
  static constexpr Function function = transposed_tile<Product, kRows, kVectors>;
};

template <class Product>
void multiply_transposed(const typename Product::Value* a, int64_t a_row, int64_t inner,
                         const typename Product::Value* b, int64_t b_row, int64_t columns, int64_t rows, float* c,
                         int64_t c_row) {
  constexpr auto tiles_of = tile_table<TransposedTile<Product>>();
  const int64_t tiles = divide_up(inner, kTileRows);
  for (int64_t n = 0; n < columns; n += kPanel) {
    const int64_t width = min_of(kPanel, columns - n), vectors = divide_up(width, kWidth);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t k = inner * i / tiles, end = inner * (i + 1) / tiles;
      tiles_of.of[end - k][vectors](a + k, a_row, b + n, b_row, rows, c + k * c_row + n, c_row,
                                    width - (vectors - 1) * kWidth);
    }
  }
}

}  // namespace

void gemm_transposed(const float* a, int64_t a_row, int64_t inner, const float* b, int64_t b_row, int64_t columns,
                     int64_t rows, float* c, int64_t c_row) {
  multiply_transposed<OfFloats>(a, a_row, inner, b, b_row, columns, rows, c, c_row);
}

#if defined(__AVX512BF16__)
void gemm_transposed(const uint32_t* a, int64_t a_row, int64_t inner, const uint32_t* b, int64_t b_row, int64_t columns,
                     int64_t row_pairs, float* c, int64_t c_row) {
  multiply_transposed<OfPairs>(a, a_row, inner, b, b_row, columns, row_pairs, c, c_row);
}

namespace {

HS_INLINE UintVec pair_up(HalfVec low, HalfVec high) {
  return __builtin_convertvector(low, UintVec) | __builtin_convertvector(high, UintVec) << 16;
}

template <int kRows, int kVectors>
void tile(const uint16_t* a, int64_t a_row, int64_t pairs, const uint32_t* b, const float* bias, bool accumulate,
          float* c, int64_t c_row, int64_t last_lanes) {
  Vec sum[kRows][kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const Vec start =
        bias != nullptr ? Float32::read(bias + v * kWidth, v + 1 < kVectors ? kWidth : last_lanes) : zero();
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) sum[r][v] = start;
  }
  if (accumulate)
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[r][v] += Float32::read(c + r * c_row + v * kWidth, v + 1 < kVectors ? kWidth : last_lanes);
  for (int64_t k = 0; k < pairs; ++k, b += kPanel) {
    UintVec row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) row[v] = OfPairs::load_row(b + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      uint32_t pair;
      __builtin_memcpy(&pair, a + r * a_row + 2 * k, sizeof pair);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = OfPairs::add_product(sum[r][v], pair, row[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      Float32::write(c + r * c_row + v * kWidth, v + 1 < kVectors ? kWidth : last_lanes, sum[r][v]);
}

struct PairsTile {
  using Function = void (*)(const uint16_t*, int64_t, int64_t, const uint32_t*, const float*, bool, float*, int64_t,
                            int64_t);
  template <int kRows, int kVectors>
  static constexpr Function function = tile<kRows, kVectors>;
};

}  // namespace

void pack_pairs(const float* b, int64_t row, int64_t inner, int64_t columns, uint32_t* packed) {
  for (int64_t n = 0; n < columns; n += kPanel)
    for (int64_t k = 0; k < inner; k += 2)
      for (int64_t v = 0; v < kPanel; v += kWidth, packed += kWidth) {
        const int64_t lanes = min_of(kWidth, columns - n - v);
        UintVec pairs{};
        if (lanes > 0) {
          const float* from = b + k * row + n + v;
          const HalfVec low = BFloat16::rounded(Float32::read(from, lanes));
          const HalfVec high = k + 1 < inner ? BFloat16::rounded(Float32::read(from + row, lanes)) : HalfVec{};
          pairs = pair_up(low, high);
        }
        __builtin_memcpy(packed, &pairs, sizeof pairs);
      }
}

void pack_pairs_transposed(const float* b, int64_t row, int64_t inner, int64_t columns, int64_t panel_pairs,
                           uint32_t* packed) {
  for (int64_t n = 0; n < columns; n += kPanel, packed += panel_pairs * kPanel)
    for (int64_t i = 0; i < kPanel; ++i) {
      const float* from = b + (n + i) * row;
      for (int64_t k = 0; k < inner; k += kWidth) {
        const int64_t lanes = min_of(kWidth, inner - k);
        uint32_t pairs[kWidth / 2] = {};
        if (n + i < columns) {
          const HalfVec half = BFloat16::rounded(Float32::read(from + k, lanes));
          __builtin_memcpy(pairs, &half, sizeof half);
        }
        for (int64_t j = 0; j < (lanes + 1) / 2; ++j) packed[(k / 2 + j) * kPanel + i] = pairs[j];
      }
    }
}

void gemm_pairs(const uint16_t* a, int64_t a_row, int64_t pairs, const uint32_t* packed, int64_t panel_pairs,
                int64_t columns, int64_t rows, const float* bias, bool accumulate, float* c, int64_t c_row) {
  constexpr auto tiles_of = tile_table<PairsTile>();
  const int64_t tiles = divide_up(rows, kTileRows);
  for (int64_t n = 0; n < columns; n += kPanel) {
    const int64_t width = min_of(kPanel, columns - n), vectors = divide_up(width, kWidth);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t m = rows * i / tiles, end = rows * (i + 1) / tiles;
      tiles_of.of[end - m][vectors](a + m * a_row, a_row, pairs, packed + n * panel_pairs,
                                    bias != nullptr ? bias + n : nullptr, accumulate, c + m * c_row + n, c_row,
                                    width - (vectors - 1) * kWidth);
    }
  }
}

void interleave(const uint16_t* a, const uint16_t* b, int64_t n, uint32_t* pairs) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    HalfVec low, high{};
    __builtin_memcpy(&low, a + i, sizeof low);
    if (b != nullptr) __builtin_memcpy(&high, b + i, sizeof high);
    const UintVec both = pair_up(low, high);
    __builtin_memcpy(pairs + i, &both, sizeof both);
  }
  for (; i < n; ++i) pairs[i] = a[i] | (b != nullptr ? static_cast<uint32_t>(b[i]) << 16 : 0u);
}
#else
void pack_pairs(const float*, int64_t, int64_t, int64_t, uint32_t*) {}
void pack_pairs_transposed(const float*, int64_t, int64_t, int64_t, int64_t, uint32_t*) {}
void gemm_pairs(const uint16_t*, int64_t, int64_t, const uint32_t*, int64_t, int64_t, int64_t, const float*, bool,
                float*, int64_t) {}
void interleave(const uint16_t*, const uint16_t*, int64_t, uint32_t*) {}
void gemm_transposed(const uint32_t*, int64_t, int64_t, const uint32_t*, int64_t, int64_t, int64_t, float*, int64_t) {}
#endif

}  // namespace hs::HS_ISA
