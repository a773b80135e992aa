// Registers of bytes for the 8-bit kernels, by their width in bytes: `Lanes<64>` and narrower ones where the
// instruction set has them. Products are of unsigned activations and signed weights, four at a time into int32, and
// exact on every instruction set: all of them give the same sums.
#pragma once
#include "simd.hpp"

namespace hs::HS_ISA {

template <int kBytes>
struct Lanes;

#if defined(__aarch64__)
// NEON multiplies signed by signed: activations are read as a - 128, and sums start at 128 * (sum of the weights).
inline constexpr int32_t kDotOffset = 128;
#else
inline constexpr int32_t kDotOffset = 0;
#endif

// x86 without VNNI has no dot product of bytes: `dot` then takes bytes apart into pairs of 16 bits, whose products and
// sums are exact. Where an operand is used often, it pays to keep it in 16 bits (`dot_pairs`).
#if defined(__SSE2__) && !(defined(__AVX512VNNI__) && defined(__AVX512VL__)) && !defined(__AVXVNNI__)
#define HS_WITHOUT_BYTE_DOT
#endif

// Operands of `dot` are prepared once and used several times. `interleave` turns four pixels into words that hold the
// same channel of each: lane i of 128 bits of word register j is channel 16 * lane + 4 * j + i, the order that `narrow`
// undoes. `linear` bytes keep the order of the registers.
// Registers are plain vectors, not __m512i and its kin: those may alias anything, and GCC then keeps arrays of them in
// memory, which halves the speed of every loop below.

#if defined(__SSE2__)
template <>
struct Lanes<16> {
  typedef int32_t Ints __attribute__((vector_size(16)));
  using Raw = __m128i;
  typedef float Floats __attribute__((vector_size(16)));
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  using Left = Ints;
  using Right = Ints;
  HS_INLINE Left left(Ints a) { return a; }
  HS_INLINE Right right(Ints b) { return b; }
  HS_INLINE Ints dot(Ints sum, Left a, Right b) { return Ints(_mm_dpbusd_epi32(Raw(sum), Raw(a), Raw(b))); }
#else
  struct Left {
    Ints even, odd;
  };
  using Right = Left;
  HS_INLINE Left left(Ints a) { return {a & 0x00ff00ff, Ints(_mm_srli_epi16(Raw(a), 8))}; }
  HS_INLINE Right right(Ints b) {
    return {Ints(_mm_srai_epi16(_mm_slli_epi16(Raw(b), 8), 8)), Ints(_mm_srai_epi16(Raw(b), 8))};
  }
  HS_INLINE Ints dot(Ints sum, const Left& a, const Right& b) {
    return sum + (Ints(_mm_madd_epi16(Raw(a.even), Raw(b.even))) + Ints(_mm_madd_epi16(Raw(a.odd), Raw(b.odd))));
  }
#endif
  HS_INLINE Ints load(const void* p) { return Ints(_mm_loadu_si128(static_cast<const Raw*>(p))); }
  HS_INLINE void store(void* p, Ints v) { _mm_storeu_si128(static_cast<Raw*>(p), Raw(v)); }
  HS_INLINE Ints zero() { return Ints{}; }
  HS_INLINE Ints broadcast(int32_t x) { return Ints(_mm_set1_epi32(x)); }
  HS_INLINE Floats to_floats(Ints v) { return Floats(_mm_cvtepi32_ps(Raw(v))); }
  HS_INLINE Ints rounded(Floats v) { return Ints(_mm_cvtps_epi32(__m128(v))); }
  HS_INLINE Floats floats(float x) { return Floats(_mm_set1_ps(x)); }
  HS_INLINE Floats load_floats(const float* p) { return Floats(_mm_loadu_ps(p)); }
  HS_INLINE Floats least(Floats a, Floats b) { return Floats(_mm_min_ps(__m128(a), __m128(b))); }
  HS_INLINE void interleave(Ints a, Ints b, Ints c, Ints d, Ints words[4]) {
    const Raw ab = _mm_unpacklo_epi8(Raw(a), Raw(b)), AB = _mm_unpackhi_epi8(Raw(a), Raw(b));
    const Raw cd = _mm_unpacklo_epi8(Raw(c), Raw(d)), CD = _mm_unpackhi_epi8(Raw(c), Raw(d));
    words[0] = Ints(_mm_unpacklo_epi16(ab, cd));
    words[1] = Ints(_mm_unpackhi_epi16(ab, cd));
    words[2] = Ints(_mm_unpacklo_epi16(AB, CD));
    words[3] = Ints(_mm_unpackhi_epi16(AB, CD));
  }
  HS_INLINE Ints narrow(Ints a, Ints b, Ints c, Ints d) {
    return Ints(_mm_packus_epi16(_mm_packs_epi32(Raw(a), Raw(b)), _mm_packs_epi32(Raw(c), Raw(d))));
  }
  HS_INLINE Ints linear(Ints a, Ints b, Ints c, Ints d) { return narrow(a, b, c, d); }
  // The first quarters of a register.
  HS_INLINE void store_first(void* p, Ints v, int quarters) {
    __builtin_memcpy(p, &v, static_cast<size_t>(quarters) * 4);
  }
  // The lanes of one register as bytes, to memory: 4 of them. `narrow` saturates, `truncate` takes 0...255 as given.
  HS_INLINE void store_narrow(uint8_t* p, Ints v) {
    const Raw words = _mm_packs_epi32(Raw(v), Raw(v));
    const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    __builtin_memcpy(p, &bytes, 4);
  }
  HS_INLINE void store_truncated(uint8_t* p, Ints v) { store_narrow(p, v); }
  // 0...255 in every lane, as 16 bits each.
  HS_INLINE void store_truncated(int16_t* p, Ints v) {
    _mm_storel_epi64(reinterpret_cast<Raw*>(p), _mm_packs_epi32(Raw(v), Raw(v)));
  }
  // Pairs of 16 bits: from signed bytes; and the sums of their products, exact.
  HS_INLINE Ints load_pairs(const void* p) {
    const Raw bytes = _mm_loadl_epi64(static_cast<const Raw*>(p));
    return Ints(_mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8));
  }
  HS_INLINE Ints dot_pairs(Ints sum, Ints a, Ints b) { return sum + Ints(_mm_madd_epi16(Raw(a), Raw(b))); }
  // As many bytes as there are lanes.
  HS_INLINE Ints widen(const uint8_t* p) {
    int32_t bytes;
    __builtin_memcpy(&bytes, p, 4);
    const Raw words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), _mm_setzero_si128());
    return Ints(_mm_unpacklo_epi16(words, _mm_setzero_si128()));
  }
};
#endif

#if defined(__AVX2__)
template <>
struct Lanes<32> {
  typedef int32_t Ints __attribute__((vector_size(32)));
  using Raw = __m256i;
  typedef float Floats __attribute__((vector_size(32)));
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  using Left = Ints;
  using Right = Ints;
  HS_INLINE Left left(Ints a) { return a; }
  HS_INLINE Right right(Ints b) { return b; }
  HS_INLINE Ints dot(Ints sum, Left a, Right b) { return Ints(_mm256_dpbusd_epi32(Raw(sum), Raw(a), Raw(b))); }
#elif defined(__AVXVNNI__)
  using Left = Ints;
  using Right = Ints;
  HS_INLINE Left left(Ints a) { return a; }
  HS_INLINE Right right(Ints b) { return b; }
  HS_INLINE Ints dot(Ints sum, Left a, Right b) { return Ints(_mm256_dpbusd_avx_epi32(Raw(sum), Raw(a), Raw(b))); }
#else
  struct Left {
    Ints even, odd;
  };
  using Right = Left;
  HS_INLINE Left left(Ints a) { return {a & 0x00ff00ff, Ints(_mm256_srli_epi16(Raw(a), 8))}; }
  HS_INLINE Right right(Ints b) {
    return {Ints(_mm256_srai_epi16(_mm256_slli_epi16(Raw(b), 8), 8)), Ints(_mm256_srai_epi16(Raw(b), 8))};
  }
  HS_INLINE Ints dot(Ints sum, const Left& a, const Right& b) {
    return sum + (Ints(_mm256_madd_epi16(Raw(a.even), Raw(b.even))) + Ints(_mm256_madd_epi16(Raw(a.odd), Raw(b.odd))));
  }
#endif
  HS_INLINE Ints load(const void* p) { return Ints(_mm256_loadu_si256(static_cast<const Raw*>(p))); }
  HS_INLINE void store(void* p, Ints v) { _mm256_storeu_si256(static_cast<Raw*>(p), Raw(v)); }
  HS_INLINE Ints zero() { return Ints{}; }
  HS_INLINE Ints broadcast(int32_t x) { return Ints(_mm256_set1_epi32(x)); }
  HS_INLINE Floats to_floats(Ints v) { return Floats(_mm256_cvtepi32_ps(Raw(v))); }
  HS_INLINE Ints rounded(Floats v) { return Ints(_mm256_cvtps_epi32(__m256(v))); }
  HS_INLINE Floats floats(float x) { return Floats(_mm256_set1_ps(x)); }
  HS_INLINE Floats load_floats(const float* p) { return Floats(_mm256_loadu_ps(p)); }
  HS_INLINE Floats least(Floats a, Floats b) { return Floats(_mm256_min_ps(__m256(a), __m256(b))); }
  HS_INLINE void interleave(Ints a, Ints b, Ints c, Ints d, Ints words[4]) {
    const Raw ab = _mm256_unpacklo_epi8(Raw(a), Raw(b)), AB = _mm256_unpackhi_epi8(Raw(a), Raw(b));
    const Raw cd = _mm256_unpacklo_epi8(Raw(c), Raw(d)), CD = _mm256_unpackhi_epi8(Raw(c), Raw(d));
    words[0] = Ints(_mm256_unpacklo_epi16(ab, cd));
    words[1] = Ints(_mm256_unpackhi_epi16(ab, cd));
    words[2] = Ints(_mm256_unpacklo_epi16(AB, CD));
    words[3] = Ints(_mm256_unpackhi_epi16(AB, CD));
  }
  HS_INLINE Ints narrow(Ints a, Ints b, Ints c, Ints d) {
    return Ints(_mm256_packus_epi16(_mm256_packs_epi32(Raw(a), Raw(b)), _mm256_packs_epi32(Raw(c), Raw(d))));
  }
  HS_INLINE Ints linear(Ints a, Ints b, Ints c, Ints d) {
    const Raw order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return Ints(_mm256_permutevar8x32_epi32(Raw(narrow(a, b, c, d)), order));
  }
  HS_INLINE void store_narrow(uint8_t* p, Ints v) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(Raw(v)), _mm256_extracti128_si256(Raw(v), 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }
  HS_INLINE void store_truncated(uint8_t* p, Ints v) { store_narrow(p, v); }
  HS_INLINE void store_truncated(int16_t* p, Ints v) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(Raw(v)), _mm256_extracti128_si256(Raw(v), 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), words);
  }
  HS_INLINE Ints load_pairs(const void* p) {
    return Ints(_mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p))));
  }
  HS_INLINE Ints dot_pairs(Ints sum, Ints a, Ints b) { return sum + Ints(_mm256_madd_epi16(Raw(a), Raw(b))); }
  HS_INLINE void store_first(void* p, Ints v, int quarters) {
    __builtin_memcpy(p, &v, static_cast<size_t>(quarters) * 8);
  }
  HS_INLINE Ints widen(const uint8_t* p) {
    return Ints(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
};
#endif

#if defined(__AVX512BW__)
template <>
struct Lanes<64> {
  typedef int32_t Ints __attribute__((vector_size(64)));
  using Raw = __m512i;
  typedef float Floats __attribute__((vector_size(64)));
#if defined(__AVX512VNNI__)
  using Left = Ints;
  using Right = Ints;
  HS_INLINE Left left(Ints a) { return a; }
  HS_INLINE Right right(Ints b) { return b; }
  HS_INLINE Ints dot(Ints sum, Left a, Right b) { return Ints(_mm512_dpbusd_epi32(Raw(sum), Raw(a), Raw(b))); }
#else
  struct Left {
    Ints even, odd;
  };
  using Right = Left;
  HS_INLINE Left left(Ints a) { return {a & 0x00ff00ff, Ints(_mm512_srli_epi16(Raw(a), 8))}; }
  HS_INLINE Right right(Ints b) {
    return {Ints(_mm512_srai_epi16(_mm512_slli_epi16(Raw(b), 8), 8)), Ints(_mm512_srai_epi16(Raw(b), 8))};
  }
  HS_INLINE Ints dot(Ints sum, const Left& a, const Right& b) {
    return sum + (Ints(_mm512_madd_epi16(Raw(a.even), Raw(b.even))) + Ints(_mm512_madd_epi16(Raw(a.odd), Raw(b.odd))));
  }
#endif
  HS_INLINE Ints load(const void* p) { return Ints(_mm512_loadu_si512(p)); }
  HS_INLINE void store(void* p, Ints v) { _mm512_storeu_si512(p, Raw(v)); }
  HS_INLINE Ints zero() { return Ints{}; }
  HS_INLINE Ints broadcast(int32_t x) { return Ints(_mm512_set1_epi32(x)); }
  HS_INLINE Floats to_floats(Ints v) { return Floats(_mm512_cvtepi32_ps(Raw(v))); }
  HS_INLINE Ints rounded(Floats v) { return Ints(_mm512_cvtps_epi32(__m512(v))); }
  HS_INLINE Floats floats(float x) { return Floats(_mm512_set1_ps(x)); }
  HS_INLINE Floats load_floats(const float* p) { return Floats(_mm512_loadu_ps(p)); }
  HS_INLINE Floats least(Floats a, Floats b) { return Floats(_mm512_min_ps(__m512(a), __m512(b))); }
  HS_INLINE void interleave(Ints a, Ints b, Ints c, Ints d, Ints words[4]) {
    const Raw ab = _mm512_unpacklo_epi8(Raw(a), Raw(b)), AB = _mm512_unpackhi_epi8(Raw(a), Raw(b));
    const Raw cd = _mm512_unpacklo_epi8(Raw(c), Raw(d)), CD = _mm512_unpackhi_epi8(Raw(c), Raw(d));
    words[0] = Ints(_mm512_unpacklo_epi16(ab, cd));
    words[1] = Ints(_mm512_unpackhi_epi16(ab, cd));
    words[2] = Ints(_mm512_unpacklo_epi16(AB, CD));
    words[3] = Ints(_mm512_unpackhi_epi16(AB, CD));
  }
  HS_INLINE Ints narrow(Ints a, Ints b, Ints c, Ints d) {
    return Ints(_mm512_packus_epi16(_mm512_packs_epi32(Raw(a), Raw(b)), _mm512_packs_epi32(Raw(c), Raw(d))));
  }
  HS_INLINE Ints linear(Ints a, Ints b, Ints c, Ints d) {
    const Raw order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return Ints(_mm512_permutexvar_epi32(order, Raw(narrow(a, b, c, d))));
  }
  HS_INLINE void store_narrow(uint8_t* p, Ints v) {
    const __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(Raw(v), _mm512_setzero_si512()));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }
  HS_INLINE void store_truncated(uint8_t* p, Ints v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(Raw(v)));
  }
  HS_INLINE void store_truncated(int16_t* p, Ints v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(Raw(v)));
  }
  HS_INLINE Ints load_pairs(const void* p) {
    return Ints(_mm512_cvtepi8_epi16(_mm256_loadu_si256(static_cast<const __m256i*>(p))));
  }
  HS_INLINE Ints dot_pairs(Ints sum, Ints a, Ints b) { return sum + Ints(_mm512_madd_epi16(Raw(a), Raw(b))); }
  HS_INLINE void store_first(void* p, Ints v, int quarters) {
    if (quarters == 2) {
      _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_castsi512_si256(Raw(v)));
    } else {
      _mm512_mask_storeu_epi32(p, static_cast<__mmask16>((1u << (4 * quarters)) - 1u), Raw(v));
    }
  }
  HS_INLINE Ints widen(const uint8_t* p) {
    return Ints(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
};
#endif

#if !defined(__SSE2__)
// ARM, and plain vector extensions elsewhere.
template <>
struct Lanes<16> {
  typedef int32_t Ints __attribute__((vector_size(16)));
  typedef float Floats __attribute__((vector_size(16)));
  typedef int8_t Bytes __attribute__((vector_size(16)));
  typedef int16_t Words __attribute__((vector_size(16)));
  using Left = Ints;
  using Right = Ints;
#if defined(__aarch64__)
  HS_INLINE Left left(Ints a) { return a ^ static_cast<int32_t>(0x80808080u); }
  HS_INLINE Right right(Ints b) { return b; }
  HS_INLINE Ints dot(Ints sum, Left a, Right b) {
    const auto x = reinterpret_cast<int8x16_t>(a), y = reinterpret_cast<int8x16_t>(b);
#if defined(__ARM_FEATURE_DOTPROD)
    return Ints(vdotq_s32(int32x4_t(sum), x, y));
#else
    // Two products fit 16 bits, since no weight is -128: |2 * -128 * 127| < 2^15.
    const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(y)), high = vmull_high_s8(x, y);
    return Ints(vpadalq_s16(int32x4_t(sum), vpaddq_s16(low, high)));
#endif
  }
  HS_INLINE Ints rounded(Floats v) { return Ints(vcvtnq_s32_f32(float32x4_t(v))); }
  HS_INLINE Ints narrow(Ints a, Ints b, Ints c, Ints d) {
    const int16x8_t low = vcombine_s16(vqmovn_s32(int32x4_t(a)), vqmovn_s32(int32x4_t(b)));
    const int16x8_t high = vcombine_s16(vqmovn_s32(int32x4_t(c)), vqmovn_s32(int32x4_t(d)));
    return reinterpret_cast<Ints>(vcombine_u8(vqmovun_s16(low), vqmovun_s16(high)));
  }
#else
  HS_INLINE Left left(Ints a) { return a; }
  HS_INLINE Right right(Ints b) { return b; }
  HS_INLINE Ints dot(Ints sum, Left a, Right b) {
    return sum + (a & 255) * ((b << 24) >> 24) + ((a >> 8) & 255) * ((b << 16) >> 24) +
           ((a >> 16) & 255) * ((b << 8) >> 24) + ((a >> 24) & 255) * (b >> 24);
  }
  HS_INLINE Ints rounded(Floats v) {
    // Adding 1.5 * 2^23 leaves the rounded value in the low bits; beyond 2^21 only the sign matters here.
    v = v < -2097152.0f ? floats(-2097152.0f) : v;
    v = v > 2097152.0f ? floats(2097152.0f) : v;
    return reinterpret_cast<Ints>(v + 12582912.0f) - 0x4b400000;
  }
  HS_INLINE Ints clipped(Ints v) {
    v = v < 0 ? Ints{} : v;
    return v > 255 ? Ints{} + 255 : v;
  }
  HS_INLINE Ints narrow(Ints a, Ints b, Ints c, Ints d) {
    uint8_t bytes[16];
    const Ints all[4] = {clipped(a), clipped(b), clipped(c), clipped(d)};
    for (int i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(all[i / 4][i % 4]);
    return load(bytes);
  }
#endif
  HS_INLINE Ints load(const void* p) {
    Ints v;
    __builtin_memcpy(&v, p, 16);
    return v;
  }
  HS_INLINE void store(void* p, Ints v) { __builtin_memcpy(p, &v, 16); }
  HS_INLINE Ints zero() { return Ints{}; }
  HS_INLINE Ints broadcast(int32_t x) { return Ints{} + x; }
  HS_INLINE Floats to_floats(Ints v) { return __builtin_convertvector(v, Floats); }
  HS_INLINE Floats floats(float x) { return Floats{} + x; }
  HS_INLINE Floats load_floats(const float* p) {
    Floats v;
    __builtin_memcpy(&v, p, 16);
    return v;
  }
  HS_INLINE Floats least(Floats a, Floats b) { return b < a ? b : a; }
  HS_INLINE void interleave(Ints a, Ints b, Ints c, Ints d, Ints words[4]) {
    const auto p = reinterpret_cast<Bytes>(a), q = reinterpret_cast<Bytes>(b);
    const auto r = reinterpret_cast<Bytes>(c), s = reinterpret_cast<Bytes>(d);
#define HS_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HS_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
    const auto ab = reinterpret_cast<Words>(__builtin_shufflevector(p, q, HS_LOW));
    const auto AB = reinterpret_cast<Words>(__builtin_shufflevector(p, q, HS_HIGH));
    const auto cd = reinterpret_cast<Words>(__builtin_shufflevector(r, s, HS_LOW));
    const auto CD = reinterpret_cast<Words>(__builtin_shufflevector(r, s, HS_HIGH));
#undef HS_LOW
#undef HS_HIGH
    words[0] = reinterpret_cast<Ints>(__builtin_shufflevector(ab, cd, 0, 8, 1, 9, 2, 10, 3, 11));
    words[1] = reinterpret_cast<Ints>(__builtin_shufflevector(ab, cd, 4, 12, 5, 13, 6, 14, 7, 15));
    words[2] = reinterpret_cast<Ints>(__builtin_shufflevector(AB, CD, 0, 8, 1, 9, 2, 10, 3, 11));
    words[3] = reinterpret_cast<Ints>(__builtin_shufflevector(AB, CD, 4, 12, 5, 13, 6, 14, 7, 15));
  }
  HS_INLINE Ints linear(Ints a, Ints b, Ints c, Ints d) { return narrow(a, b, c, d); }
  HS_INLINE void store_narrow(uint8_t* p, Ints v) {
    const Ints bytes = narrow(v, v, v, v);
    __builtin_memcpy(p, &bytes, 4);
  }
  HS_INLINE Ints widen(const uint8_t* p) { return Ints{p[0], p[1], p[2], p[3]}; }
  HS_INLINE void store_truncated(uint8_t* p, Ints v) { store_narrow(p, v); }
  HS_INLINE void store_first(void* p, Ints v, int quarters) {
    __builtin_memcpy(p, &v, static_cast<size_t>(quarters) * 4);
  }
};
#endif

using Wide = Lanes<kWidth * 4>;

}  // namespace hs::HS_ISA
