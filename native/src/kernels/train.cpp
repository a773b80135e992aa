// The endings of training blocks and the product A^T B of weight gradients. Registers nothing itself.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

constexpr int kChunk = 4;  // vectors of a row that are finished together, with their sums in registers

struct One {
  static constexpr int value = 1;
};
struct Some {
  static constexpr int value = kChunk;
};

template <class S, bool stores>
void finish_forward_as(const float* block, int64_t block_row, int64_t rows, int64_t channels, typename S::Value* z,
                       int64_t z_row, double* sums, int64_t sums_stride) {
  int64_t c = 0;
  const auto one_vector = [&](int64_t lanes) __attribute__((always_inline)) {
    Vec sum = zero(), squares = zero();
    for (int64_t r = 0; r < rows; ++r) {
      const Vec v = Float32::read(block + r * block_row + c, lanes);
      sum += v;
      squares += v * v;
      if constexpr (stores) S::write(z + r * z_row + c, lanes, v);
    }
    if (sums == nullptr) return;
    add_to(sums + c, sum, lanes);
    add_to(sums + sums_stride + c, squares, lanes);
  };
  for (; c + kChunk * kWidth <= channels; c += kChunk * kWidth) {
    Vec sum[kChunk], squares[kChunk];
    for (int k = 0; k < kChunk; ++k) sum[k] = squares[k] = zero();
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int k = 0; k < kChunk; ++k) {
        const Vec v = load(block + r * block_row + c + k * kWidth);
        sum[k] += v;
        squares[k] += v * v;
        if constexpr (stores) S::write(z + r * z_row + c + k * kWidth, kWidth, v);
      }
    if (sums == nullptr) continue;
    for (int k = 0; k < kChunk; ++k) {
      add_to(sums + c + k * kWidth, sum[k], kWidth);
      add_to(sums + sums_stride + c + k * kWidth, squares[k], kWidth);
    }
  }
  for (; c + kWidth <= channels; c += kWidth) one_vector(kWidth);
  if (c < channels) one_vector(channels - c);
}

template <class S, Activation kind, bool normalised, bool adds>
void finish_backward_as(const float* block, int64_t block_row, int64_t row, int64_t rows, int64_t first, int64_t count,
                        const InputGradient<S>& to) {
  const Vec alpha = broadcast(to.activation.alpha), beta = broadcast(to.activation.beta);
  const auto vectors = [&](int64_t c, auto chunk, int64_t lanes) __attribute__((always_inline)) {
    constexpr int n = decltype(chunk)::value;
    Vec scale[n], shift[n], mean[n], inverse[n], sum[n], product[n];
    for (int k = 0; k < n; ++k) {
      sum[k] = product[k] = zero();
      if constexpr (normalised) {
        scale[k] = broadcast(1.0f);
        shift[k] = mean[k] = inverse[k] = zero();
        if (to.coefficients == nullptr) continue;
        const float* p = to.coefficients + first + c + k * kWidth;
        scale[k] = Float32::read(p, lanes);
        shift[k] = Float32::read(p + to.channels, lanes);
        mean[k] = Float32::read(p + 2 * to.channels, lanes);
        inverse[k] = Float32::read(p + 3 * to.channels, lanes);
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = (row + r) * to.channels + first + c, z_at = (row + r) * to.z_row + first + c;
      const int64_t gx_at = (row + r) * to.gx_row + first + c;
#pragma GCC unroll 4
      for (int k = 0; k < n; ++k) {
        Vec g = Float32::read(block + r * block_row + c + k * kWidth, lanes);
        if constexpr (adds) g += S::read(to.extra + at + k * kWidth, lanes);
        if constexpr (normalised) {
          const Vec z = S::read(to.z + z_at + k * kWidth, lanes);
          if constexpr (kind != Activation::none) g *= slope<kind>(z * scale[k] + shift[k], alpha, beta);
          sum[k] += g;
          product[k] += g * ((z - mean[k]) * inverse[k]);
        }
        S::write(to.gx + gx_at + k * kWidth, lanes, g);
      }
    }
    if (!normalised || to.sums == nullptr) return;
    for (int k = 0; k < n; ++k) {
      add_to(to.sums + first + c + k * kWidth, sum[k], lanes);
      add_to(to.sums + to.channels + first + c + k * kWidth, product[k], lanes);
    }
  };
  int64_t c = 0;
  for (; c + kChunk * kWidth <= count; c += kChunk * kWidth) vectors(c, Some{}, int64_t{kWidth});
  for (; c + kWidth <= count; c += kWidth) vectors(c, One{}, int64_t{kWidth});
  if (c < count) vectors(c, One{}, count - c);
}

// One tile of C += A^T B.
template <int kRows, int kVectors>
void transposed_tile(const float* a, int64_t a_row, const float* b, int64_t b_row, int64_t rows, float* c,
                     int64_t c_row, int64_t last_lanes) {
  Vec sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = zero();
  for (int64_t k = 0; k < rows; ++k, a += a_row, b += b_row) {
    Vec row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) row[v] = load(b + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec x = broadcast(a[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] += x * row[v];
    }
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

using TransposedTile = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t, int64_t);
struct TransposedTiles {
  TransposedTile of[kTileRows + 1][kPanelVectors + 1];
};
template <int kRows>
constexpr void fill(TransposedTiles& table) {
  table.of[kRows][1] = transposed_tile<kRows, 1>;
  table.of[kRows][2] = transposed_tile<kRows, 2>;
  if constexpr (kRows > 1) fill<kRows - 1>(table);
}
constexpr TransposedTiles make_tiles() {
  TransposedTiles table{};
  fill<kTileRows>(table);
  return table;
}
constexpr TransposedTiles kTiles = make_tiles();

}  // namespace

template <class S>
void finish_forward(const float* block, int64_t block_row, int64_t rows, int64_t channels, typename S::Value* z,
                    int64_t z_row, double* sums, int64_t sums_stride) {
  if (z == nullptr && sums == nullptr) return;
  if (z == nullptr)
    finish_forward_as<S, false>(block, block_row, rows, channels, z, z_row, sums, sums_stride);
  else
    finish_forward_as<S, true>(block, block_row, rows, channels, z, z_row, sums, sums_stride);
}
template void finish_forward<Float32>(const float*, int64_t, int64_t, int64_t, float*, int64_t, double*, int64_t);
template void finish_forward<BFloat16>(const float*, int64_t, int64_t, int64_t, uint16_t*, int64_t, double*, int64_t);
template void finish_forward<Float16>(const float*, int64_t, int64_t, int64_t, uint16_t*, int64_t, double*, int64_t);

template <class S>
void finish_backward(const float* block, int64_t block_row, int64_t row, int64_t rows, int64_t first, int64_t count,
                     const InputGradient<S>& to) {
#define HS_FINISH(kind, normalised)                                                                                    \
  return to.extra != nullptr ? finish_backward_as<S, Activation::kind, normalised, true>(block, block_row, row, rows,  \
                                                                                         first, count, to)             \
                             : finish_backward_as<S, Activation::kind, normalised, false>(block, block_row, row, rows, \
                                                                                          first, count, to)
  if (to.z == nullptr) HS_FINISH(none, false);
  switch (to.activation.kind) {
#define HS_CASE(kind)    \
  case Activation::kind: \
    HS_FINISH(kind, true);
    HS_FOR_EACH_ACTIVATION(HS_CASE)
#undef HS_CASE
  }
#undef HS_FINISH
}
template void finish_backward<Float32>(const float*, int64_t, int64_t, int64_t, int64_t, int64_t,
                                       const InputGradient<Float32>&);
template void finish_backward<BFloat16>(const float*, int64_t, int64_t, int64_t, int64_t, int64_t,
                                        const InputGradient<BFloat16>&);
template void finish_backward<Float16>(const float*, int64_t, int64_t, int64_t, int64_t, int64_t,
                                       const InputGradient<Float16>&);

void gemm_transposed(const float* a, int64_t a_row, int64_t inner, const float* b, int64_t b_row, int64_t columns,
                     int64_t rows, float* c, int64_t c_row) {
  const int64_t tiles = divide_up(inner, kTileRows);
  for (int64_t n = 0; n < columns; n += kPanel) {
    const int64_t width = min_of(kPanel, columns - n), vectors = divide_up(width, kWidth);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t k = inner * i / tiles, end = inner * (i + 1) / tiles;
      kTiles.of[end - k][vectors](a + k, a_row, b + n, b_row, rows, c + k * c_row + n, c_row,
                                  width - (vectors - 1) * kWidth);
    }
  }
}

}  // namespace hs::HS_ISA
