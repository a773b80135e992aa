// The matrix multiply that convolutions and linear layers share: C = activation(A x B + bias + residual).
// A is read where it lies (any row stride; rows are NHWC pixels), B in panels of kPanel columns, either packed
// (panel-major, `inner` rows of kPanel floats) or straight from a row-major matrix: only the strides differ.
#pragma once
#include "activation.hpp"

namespace hs::HS_ISA {

// The register tile: kTileRows x kPanel accumulators, plus a row of B and one element of A, fill the register file.
inline constexpr int kPanelVectors = 2;
inline constexpr int kPanel = kPanelVectors * kWidth;
#if defined(__AVX512F__)
inline constexpr int kTileRows = 14;
#elif defined(__aarch64__)
inline constexpr int kTileRows = 10;
#else
inline constexpr int kTileRows = 6;
#endif

// A function for each size of a tile, which works on as many rows and vectors as it has: of[rows][vectors].
template <class Function>
struct TileTable {
  Function of[kTileRows + 1][kPanelVectors + 1];
};
// `Tile` names the type `Function` and has `function<kRows, kVectors>`.
template <class Tile, int kRows = kTileRows>
constexpr TileTable<typename Tile::Function> tile_table(TileTable<typename Tile::Function> table = {}) {
  table.of[kRows][1] = Tile::template function<kRows, 1>;
  table.of[kRows][2] = Tile::template function<kRows, 2>;
  if constexpr (kRows > 1)
    return tile_table<Tile, kRows - 1>(table);
  else
    return table;
}

// What happens to a finished element; pointers may be null.
struct Epilogue {
  const float* bias = nullptr;      // per column
  const float* residual = nullptr;  // same shape as C
  int64_t residual_row = 0;
  bool residual_after = false;  // add it after the activation instead of before
  ActivationSpec activation{Activation::none, 0.0f, 0.0f};
};

struct Gemm {
  int64_t rows, columns, inner;
  const float* a;
  int64_t a_row;  // elements from a row to the next; along `inner` A is contiguous, unless it has segments:
  // A's row is `segments` runs of inner / segments elements, run s of row m at a_segments[s] + m * a_row (`a` is not
  // used). The lines under the window of a convolution are such runs.
  const float* const* a_segments = nullptr;
  int64_t segments = 1;
  const float* b;
  int64_t b_inner, b_panel;  // elements from k to k + 1 within a panel; from a panel to the next
  float* c;
  int64_t c_row;
  bool accumulate = false;  // C += instead of C =; not together with a residual added before the activation
  Epilogue epilogue;
};

// Packed B: `columns` rounded up to whole panels; the last panel is zero-filled.
HS_INLINE int64_t packed_floats(int64_t inner, int64_t columns) { return inner * round_up(columns, kPanel); }
// From B(k, n) = b[k * row + n * column].
void pack_panels(const float* b, int64_t row, int64_t column, int64_t inner, int64_t columns, float* packed);

// The part of C in these rows and columns; columns.begin is a multiple of kPanel.
void gemm(const Gemm& g, Range rows, Range columns);
// This thread's part of C, split over rows or columns, whichever moves less data.
void gemm(const Gemm& g, int thread, int threads);

}  // namespace hs::HS_ISA
