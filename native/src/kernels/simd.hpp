// One vector of floats of the width of the instruction set, in compiler vector extensions: one source serves all
// widths.
#pragma once
#include "isa.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace hs::HS_ISA {

#if defined(__AVX512F__)
inline constexpr int kWidth = 16;
#elif defined(__AVX2__)
inline constexpr int kWidth = 8;
#else
inline constexpr int kWidth = 4;
#endif

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef int32_t IntVec __attribute__((vector_size(kWidth * 4)));

HS_INLINE Vec zero() { return Vec{}; }
HS_INLINE Vec broadcast(float x) {
#if defined(__AVX512F__)
  return Vec(_mm512_set1_ps(x));
#elif defined(__AVX2__)
  return Vec(_mm256_set1_ps(x));
#else
  return Vec{x, x, x, x};
#endif
}
HS_INLINE IntVec broadcast_int(int32_t x) { return IntVec{} + x; }

HS_INLINE Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
HS_INLINE void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }

// The first n lanes, 0 <= n <= kWidth; other lanes read as zero and are not written.
HS_INLINE Vec load_part(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return Vec(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p));
#elif defined(__AVX2__)
  const __m256i mask =
      _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  return Vec(_mm256_maskload_ps(p, mask));
#else
  float lanes[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
#endif
}
HS_INLINE void store_part(float* p, int64_t n, Vec v) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), __m512(v));
#elif defined(__AVX2__)
  const __m256i mask =
      _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  _mm256_maskstore_ps(p, mask, __m256(v));
#else
  float lanes[kWidth];
  store(lanes, v);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
#endif
}

// Where either is NaN: the second on x86-64, NaN on ARM.
HS_INLINE Vec max_of(Vec a, Vec b) {
#if defined(__AVX512F__)
  return Vec(_mm512_max_ps(__m512(a), __m512(b)));
#elif defined(__AVX2__)
  return Vec(_mm256_max_ps(__m256(a), __m256(b)));
#elif defined(__SSE2__)
  return Vec(_mm_max_ps(__m128(a), __m128(b)));
#elif defined(__ARM_NEON)
  return Vec(vmaxq_f32(float32x4_t(a), float32x4_t(b)));
#else
  return a > b ? a : b;
#endif
}
HS_INLINE Vec min_of(Vec a, Vec b) {
#if defined(__AVX512F__)
  return Vec(_mm512_min_ps(__m512(a), __m512(b)));
#elif defined(__AVX2__)
  return Vec(_mm256_min_ps(__m256(a), __m256(b)));
#elif defined(__SSE2__)
  return Vec(_mm_min_ps(__m128(a), __m128(b)));
#elif defined(__ARM_NEON)
  return Vec(vminq_f32(float32x4_t(a), float32x4_t(b)));
#else
  return a < b ? a : b;
#endif
}

HS_INLINE float sum_of(Vec v) {
  float total = 0;
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  total = v[0];
  return total;
}
HS_INLINE float largest_of(Vec v) {
  float best = v[0];
  for (int i = 1; i < kWidth; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

HS_INLINE Vec as_floats(IntVec v) { return reinterpret_cast<Vec>(v); }
HS_INLINE IntVec as_ints(Vec v) { return reinterpret_cast<IntVec>(v); }
HS_INLINE Vec to_floats(IntVec v) { return __builtin_convertvector(v, Vec); }
HS_INLINE IntVec truncated(Vec v) { return __builtin_convertvector(v, IntVec); }
HS_INLINE Vec select(IntVec mask, Vec a, Vec b) { return mask ? a : b; }
HS_INLINE Vec abs_of(Vec v) { return as_floats(as_ints(v) & 0x7fffffff); }
HS_INLINE Vec floor_of(Vec v) {
  const Vec whole = to_floats(truncated(v));
  const Vec lower = select(whole > v, whole - broadcast(1.0f), whole);
  return select(abs_of(v) < broadcast(8388608.0f), lower, v);  // beyond 2^23 every float is whole
}
HS_INLINE Vec sqrt_of(Vec v) {
#if defined(__AVX512F__)
  return Vec(_mm512_sqrt_ps(__m512(v)));
#elif defined(__AVX2__)
  return Vec(_mm256_sqrt_ps(__m256(v)));
#elif defined(__SSE2__)
  return Vec(_mm_sqrt_ps(__m128(v)));
#elif defined(__aarch64__)
  return Vec(vsqrtq_f32(float32x4_t(v)));
#else
  for (int i = 0; i < kWidth; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}

}  // namespace hs::HS_ISA
