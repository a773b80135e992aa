// Rows of float32 to codes, each row on its own range. Four rows go together, since finding the largest of one vector's
// lanes costs more than all the rest.
#include "int8_gemm.hpp"

namespace hs::HS_ISA {
namespace {

// The largest lane of each of four vectors.
HS_INLINE void largest_of_four(const Vec* v, float* largest) {
#if defined(__AVX512F__)
  const auto halves = [](Vec a, Vec b) {
    const auto low = Vec(_mm512_shuffle_f32x4(__m512(a), __m512(b), 0x44));
    return max_of(low, Vec(_mm512_shuffle_f32x4(__m512(a), __m512(b), 0xee)));
  };
  const Vec a = halves(v[0], v[1]), b = halves(v[2], v[3]);  // eight candidates of each vector
  Vec c = max_of(Vec(_mm512_shuffle_f32x4(__m512(a), __m512(b), 0x88)),
                 Vec(_mm512_shuffle_f32x4(__m512(a), __m512(b), 0xdd)));
  c = max_of(c, Vec(_mm512_permute_ps(__m512(c), 0x4e)));
  c = max_of(c, Vec(_mm512_permute_ps(__m512(c), 0xb1)));
  const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm_storeu_ps(largest, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, __m512(c))));
#elif defined(__AVX2__)
  const auto pairs = [](Vec a, Vec b) {
    return max_of(Vec(_mm256_unpacklo_ps(__m256(a), __m256(b))), Vec(_mm256_unpackhi_ps(__m256(a), __m256(b))));
  };
  const Vec a = pairs(v[0], v[1]), b = pairs(v[2], v[3]);  // four candidates of each vector
  const Vec c =
      max_of(Vec(_mm256_shuffle_ps(__m256(a), __m256(b), 0x44)), Vec(_mm256_shuffle_ps(__m256(a), __m256(b), 0xee)));
  _mm_storeu_ps(largest, _mm_max_ps(_mm256_castps256_ps128(__m256(c)), _mm256_extractf128_ps(__m256(c), 1)));
#else
  for (int i = 0; i < kQuantizedRows; ++i) largest[i] = largest_of(v[i]);
#endif
}

// `kCount` rows. `kShort`: a line is one vector, or less.
template <int kCount, bool kShort>
void quantize(const Lines* rows, int64_t lines, int64_t n, bool non_negative, Code* codes, int64_t code_row,
              float* scales) {
  const int64_t whole = kShort ? 0 : n / kWidth * kWidth, rest = n - whole;
  const IntVec magnitude = broadcast_int(non_negative ? -1 : 0x7fffffff);
  Vec most[kQuantizedRows] = {};
#pragma GCC unroll 4
  for (int r = 0; r < kCount; ++r) {
    const float* x = rows[r].first;
    const int64_t step = rows[r].step;
    Vec m = zero();
    for (int64_t line = 0; line < lines; ++line, x += step) {
      if constexpr (!kShort)
        for (int64_t i = 0; i < whole; i += kWidth) m = max_of(m, as_floats(as_ints(load(x + i)) & magnitude));
      if (kShort || rest > 0) m = max_of(m, as_floats(as_ints(load_part(x + whole, rest)) & magnitude));
    }
    most[r] = m;
  }
  float largest[kQuantizedRows], factors[kQuantizedRows];
  largest_of_four(most, largest);
  const float top = non_negative ? 255.0f : 127.0f;
#pragma GCC unroll 4
  for (int r = 0; r < kCount; ++r) {
    // A row of zeros, or of numbers too small to have a reciprocal, is all zero codes.
    factors[r] = largest[r] > 1e-35f ? top / largest[r] : 0.0f;
    scales[r] = largest[r] * (1.0f / top);
  }
  const IntVec zero_code = broadcast_int(non_negative ? 0 : 128);
#pragma GCC unroll 4
  for (int r = 0; r < kCount; ++r) {
    const Vec factor = broadcast(factors[r]);
    const float* x = rows[r].first;
    const int64_t step = rows[r].step;
    Code* to = codes + r * code_row;
    for (int64_t line = 0; line < lines; ++line, to += n, x += step) {
      if constexpr (!kShort)
        for (int64_t i = 0; i < whole; i += kWidth)
          Wide::store_truncated(to + i, Wide::Ints(IntVec(Wide::rounded(load(x + i) * factor)) + zero_code));
      if (kShort || rest > 0)
        Wide::store_truncated(to + whole,
                              Wide::Ints(IntVec(Wide::rounded(load_part(x + whole, rest) * factor)) + zero_code));
    }
  }
}

template <int kCount>
void quantize(const Lines* rows, int64_t lines, int64_t n, bool non_negative, Code* codes, int64_t code_row,
              float* scales) {
  const auto run = n <= kWidth ? quantize<kCount, true> : quantize<kCount, false>;
  run(rows, lines, n, non_negative, codes, code_row, scales);
}

}  // namespace

void quantize_rows(const Lines* rows, int64_t count, int64_t lines, int64_t n, bool non_negative, Code* codes,
                   int64_t code_row, float* scales) {
  switch (count) {
    case 4:
      return quantize<4>(rows, lines, n, non_negative, codes, code_row, scales);
    case 3:
      return quantize<3>(rows, lines, n, non_negative, codes, code_row, scales);
    case 2:
      return quantize<2>(rows, lines, n, non_negative, codes, code_row, scales);
    default:
      return quantize<1>(rows, lines, n, non_negative, codes, code_row, scales);
  }
}

}  // namespace hs::HS_ISA
