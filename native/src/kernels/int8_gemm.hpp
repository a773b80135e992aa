// The 8-bit matrix multiply: C = activation(scale x (A - zero) x B + bias + residual), A unsigned bytes, B signed
// bytes, sums in int32. Rows of A are codes already (the caller has quantised them); `zero` is 0 or 128 for all rows.
// C is float32, or codes: then `scale` and `bias` count in codes, and saturation to 0...255 is the activation.
#pragma once
#include "activation.hpp"
#include "int8_lanes.hpp"

namespace hs::HS_ISA {

// Columns of B go in panels of at most this many vectors; a tile of C has about kTileVectors accumulators.
#if defined(__AVX512F__)
inline constexpr int kInt8PanelVectors = 4, kTileVectors = 24;
#elif defined(__aarch64__)
inline constexpr int kInt8PanelVectors = 4, kTileVectors = 20;
#else
inline constexpr int kInt8PanelVectors = 2, kTileVectors = 12;
#endif

// How A is read. x86 without VNNI multiplies pairs of 16 bits, so that A's codes are kept in 16 bits each, which costs
// less than taking bytes apart again for every panel of B; B stays bytes in memory. All else takes four bytes at a
// time.
#if defined(HS_WITHOUT_BYTE_DOT)
using Code = int16_t;
#else
using Code = uint8_t;
#endif
inline constexpr int64_t kDepth = 4 / sizeof(Code);

struct Int8Gemm {
  int64_t rows, columns, inner;  // inner: real length of a row of A
  const Code* a;
  int64_t a_row;           // codes from a row to the next; kDepth at a time are read, up to inner rounded up
  const float* row_scale;  // one for each row of A, or null: all one
  const uint8_t* packed;   // from `int8_pack`
  float* c;                // either this
  uint8_t* codes;          // or this
  int64_t c_row;
  const float* residual = nullptr;  // float32 like C, only with c
  int64_t residual_row = 0;
  bool residual_after = false;
  ActivationSpec activation{Activation::none, 0.0f, 0.0f};
};

HS_INLINE int64_t int8_inner(int64_t inner) { return round_up(inner, kDepth); }
HS_INLINE int64_t int8_vectors(int64_t columns) { return divide_up(columns, kWidth); }
int64_t int8_packed_bytes(int64_t inner, int64_t columns);
// From B(k, n) = b[k * row + n], with `scale` and `bias` for each column and the zero point of A.
void int8_pack(const int8_t* b, int64_t row, const float* scale, const float* bias, int32_t zero, int64_t inner,
               int64_t columns, uint8_t* packed);

// The part of C in these rows and these vectors of columns.
void int8_gemm(const Int8Gemm& g, Range rows, Range vectors);

// Codes of rows of floats. A row is `lines` runs of n floats, `step` apart in memory. Each row has its own range: [-m,
// m], m its largest magnitude, as 128 + round(x / scale), or [0, m] as round(x / scale). At most kQuantizedRows at a
// time. Writes whole vectors: up to kWidth - 1 codes beyond a row.
inline constexpr int kQuantizedRows = 4;
struct Lines {
  const float* first;
  int64_t step;
};
void quantize_rows(const Lines* rows, int64_t count, int64_t lines, int64_t n, bool non_negative, Code* codes,
                   int64_t code_row, float* scales);

}  // namespace hs::HS_ISA
