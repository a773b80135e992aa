// What the training kernels share: values stored as float32, bfloat16 or float16, blocks of rows that are normalised
// and activated (forward) or turned into the gradient of a convolution's output (backward) while they are loaded, and
// the endings that a block gets before it is stored: sums for batch norm, the activation's slope, a second gradient.
//
// Layouts, all float32 unless said otherwise, C channels:
//   coefficients (4, C): scale, shift, mean, 1 / deviation;   y = activation(z * scale + shift)
//   gradient coefficients (3, C): a, b, c;   dz = a * g + b * z + c, g being the gradient before the normalisation
//   sums (2, C) float64: forward sum and sum of squares of z; backward sum of g and of g * (z - mean) / deviation
#pragma once
#include "gemm.hpp"

namespace hs::HS_ISA {

typedef uint16_t HalfVec __attribute__((vector_size(kWidth * 2)));
typedef uint32_t UintVec __attribute__((vector_size(kWidth * 4)));

struct Float32 {
  using Value = float;
  static constexpr bool is_float = true;
  HS_INLINE Vec read(const float* p, int64_t lanes) { return lanes == kWidth ? load(p) : load_part(p, lanes); }
  HS_INLINE void write(float* p, int64_t lanes, Vec v) {
    if (lanes == kWidth)
      store(p, v);
    else
      store_part(p, lanes, v);
  }
};

// The upper half of a float32; rounding is to nearest even.
struct BFloat16 {
  using Value = uint16_t;
  static constexpr bool is_float = false;
  HS_INLINE Vec read(const uint16_t* p, int64_t lanes) {
    HalfVec half{};
    if (lanes == kWidth) {
      __builtin_memcpy(&half, p, sizeof half);
    } else {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
      half = HalfVec(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << lanes) - 1u), p));
#else
      for (int64_t i = 0; i < lanes; ++i) half[i] = p[i];
#endif
    }
    return reinterpret_cast<Vec>(__builtin_convertvector(half, UintVec) << 16);
  }
  HS_INLINE HalfVec rounded(Vec v) {
#if defined(__AVX512BF16__)
    return (HalfVec)_mm512_cvtneps_pbh(__m512(v));
#else
    const UintVec bits = reinterpret_cast<UintVec>(v);
    UintVec up = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    up = v == v ? up : UintVec{} + 0x7fc0u;
    return __builtin_convertvector(up, HalfVec);
#endif
  }
  HS_INLINE void write(uint16_t* p, int64_t lanes, Vec v) {
    const HalfVec half = rounded(v);
    if (lanes == kWidth) {
      __builtin_memcpy(p, &half, sizeof half);
    } else {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
      _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << lanes) - 1u), __m256i(half));
#else
      for (int64_t i = 0; i < lanes; ++i) p[i] = half[i];
#endif
    }
  }
};

// IEEE half precision. x86 converts in hardware from AVX2 on; elsewhere with integers (after Giesen 2012, "Float->half
// variants", rtne), which also serves lanes that hardware would read from beyond the end.
struct Float16 {
  using Value = uint16_t;
  static constexpr bool is_float = false;
  HS_INLINE Vec widened(HalfVec half) {
#if defined(__AVX512F__)
    return Vec(_mm512_cvtph_ps(__m256i(half)));
#elif defined(__F16C__)
    return Vec(_mm256_cvtph_ps(__m128i(half)));
#else
    const UintVec bits = __builtin_convertvector(half, UintVec), size = bits & 0x7fffu;
    const Vec scaled = reinterpret_cast<Vec>(size << 13) * 0x1p112f;
    UintVec value = reinterpret_cast<UintVec>(scaled);
    value = size >= 0x7c00u ? (value | 0x7f800000u) : value;
    return reinterpret_cast<Vec>(value | (bits & 0x8000u) << 16);
#endif
  }
  HS_INLINE HalfVec rounded(Vec v) {
#if defined(__AVX512F__)
    return HalfVec(_mm512_cvtps_ph(__m512(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
    return HalfVec(_mm256_cvtps_ph(__m256(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    const UintVec bits = reinterpret_cast<UintVec>(v), size = bits & 0x7fffffffu;
    const UintVec normal = (size + 0xc8000fffu + ((size >> 13) & 1u)) >> 13;
    const UintVec small = reinterpret_cast<UintVec>(reinterpret_cast<Vec>(size) + 0.5f) - 0x3f000000u;
    const UintVec huge = size > 0x7f800000u ? UintVec{} + 0x7e00u : UintVec{} + 0x7c00u;
    const UintVec value = size >= 0x47800000u ? huge : size < 0x38800000u ? small : normal;
    return __builtin_convertvector(value | ((bits >> 16) & 0x8000u), HalfVec);
#endif
  }
  HS_INLINE Vec read(const uint16_t* p, int64_t lanes) {
    HalfVec half{};
    if (lanes == kWidth)
      __builtin_memcpy(&half, p, sizeof half);
    else
      for (int64_t i = 0; i < lanes; ++i) half[i] = p[i];
    return widened(half);
  }
  HS_INLINE void write(uint16_t* p, int64_t lanes, Vec v) {
    const HalfVec half = rounded(v);
    if (lanes == kWidth)
      __builtin_memcpy(p, &half, sizeof half);
    else
      for (int64_t i = 0; i < lanes; ++i) p[i] = half[i];
  }
};

// f(i, lanes) for every vector of n values; `lanes` is a constant but for the last.
template <class F>
HS_INLINE void over_vectors(int64_t n, F f) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) f(i, int64_t{kWidth});
  if (i < n) f(i, n - i);
}
#define HS_EACH [&](int64_t i, [[maybe_unused]] int64_t lanes) __attribute__((always_inline))

// Runs function<Float32>, <BFloat16> or <Float16> by the kernel's int `half`: 0, 1 or 2.
#define HS_BY_STORAGE(half, function, ...)         \
  ((half) == 0   ? function<Float32>(__VA_ARGS__)  \
   : (half) == 1 ? function<BFloat16>(__VA_ARGS__) \
                 : function<Float16>(__VA_ARGS__))

// y = d activation / d x at each of n values x, the values before the activation; in place is fine.
using SlopeFunction = void (*)(const float* x, float* y, int64_t n, float alpha, float beta);
SlopeFunction slope_function(Activation kind);

// How rows are read: y = activation(x * scale + shift); scale null: activation(x).
struct OnLoad {
  const float* scale;
  const float* shift;
  ActivationSpec activation;
};
HS_INLINE bool changes(const OnLoad& load) { return load.scale != nullptr || load.activation.kind != Activation::none; }
HS_INLINE OnLoad on_load(const float* coefficients, int64_t channels, ActivationSpec activation) {
  if (coefficients == nullptr) return {nullptr, nullptr, activation};
  return {coefficients, coefficients + channels, activation};
}
HS_INLINE OnLoad part_of(OnLoad load, int64_t first) {
  if (load.scale != nullptr) load.scale += first, load.shift += first;
  return load;
}

// n channels of one pixel, as To stores them.
template <class S, class To = Float32>
HS_INLINE void load_row(const typename S::Value* x, OnLoad load_as, typename To::Value* y, int64_t n) {
  if (!changes(load_as)) {
    over_vectors(n, HS_EACH { To::write(y + i, lanes, S::read(x + i, lanes)); });
    return;
  }
  if constexpr (S::is_float && To::is_float)
    if (load_as.scale == nullptr) return activate_values(x, y, n, load_as.activation);
  if (is_clip(load_as.activation.kind) && load_as.scale != nullptr) {
    const Limits limits = limits_of(load_as.activation);
    const Vec low = broadcast(limits.low), high = broadcast(limits.high);
    over_vectors(
        n, HS_EACH {
          const Vec v =
              S::read(x + i, lanes) * Float32::read(load_as.scale + i, lanes) + Float32::read(load_as.shift + i, lanes);
          To::write(y + i, lanes, min_of(high, max_of(low, v)));
        });
    return;
  }
  constexpr int64_t kChunk = 256;
  float values[kChunk];
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t count = min_of(kChunk, n - begin);
    over_vectors(
        count, HS_EACH {
          Vec v = S::read(x + begin + i, lanes);
          if (load_as.scale != nullptr)
            v = v * Float32::read(load_as.scale + begin + i, lanes) + Float32::read(load_as.shift + begin + i, lanes);
          store(values + i, v);
        });
    activate_values(values, values, count, load_as.activation);
    over_vectors(count, HS_EACH { To::write(y + begin + i, lanes, load(values + i)); });
  }
}

// Where dz comes from; `z` and `coefficients` are null where g is dz already.
template <class S>
struct OutputGradient {
  const typename S::Value* g;
  const typename S::Value* z;
  const float* coefficients;
  int64_t channels;
  int64_t g_row;  // elements of g from a pixel to the next
};
// n values of dz of a pixel, from channel `first` on; the rest of the vector behind them is zero-filled up to `padded`.
template <class S, class To = Float32>
HS_INLINE void load_gradient(const OutputGradient<S>& from, int64_t pixel, int64_t first, int64_t n, int64_t padded,
                             typename To::Value* y) {
  const typename S::Value* g = from.g + pixel * from.g_row + first;
  if (from.coefficients == nullptr) {
    over_vectors(n, HS_EACH { To::write(y + i, lanes, S::read(g + i, lanes)); });
  } else {
    const typename S::Value* z = from.z + pixel * from.channels + first;
    const float* a = from.coefficients + first;
    const float* b = a + from.channels;
    const float* c = b + from.channels;
    over_vectors(
        n, HS_EACH {
          const Vec dz = S::read(g + i, lanes) * Float32::read(a + i, lanes) +
                         (S::read(z + i, lanes) * Float32::read(b + i, lanes) + Float32::read(c + i, lanes));
          To::write(y + i, lanes, dz);
        });
  }
  for (int64_t i = n; i < padded; ++i) y[i] = 0;
}

// Dropout: x is multiplied by 1 / (1 - rate) where a random number says so, else by 0. The numbers are a function of
// (seed, step, layer, position) alone (a 64-bit mix after Steele et al. 2014, SplitMix), so the backward pass draws
// them again and nothing is saved.
HS_INLINE uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

struct DropoutKey {
  uint64_t key, limit;
  float scale;
};
// `random` is (seed, step).
HS_INLINE DropoutKey dropout_key(const int64_t* random, int64_t layer, float rate) {
  const uint64_t step = mixed(mixed(static_cast<uint64_t>(random[0])) ^ static_cast<uint64_t>(random[1]));
  return {mixed(step ^ static_cast<uint64_t>(layer)), static_cast<uint64_t>(static_cast<double>(rate) * 16777216.0),
          rate < 1.0f ? 1.0f / (1.0f - rate) : 0.0f};
}
// What the value at a position is multiplied with, and the values at [at, at + kWidth).
HS_INLINE float kept(const DropoutKey& dropout, int64_t at) {
  return mixed(dropout.key + static_cast<uint64_t>(at)) >> 40 >= dropout.limit ? dropout.scale : 0.0f;
}
HS_INLINE Vec keep(const DropoutKey& dropout, int64_t at) {
  float factors[kWidth];
  for (int64_t k = 0; k < kWidth; ++k) factors[k] = kept(dropout, at + k);
  return load(factors);
}

// Per-thread sums in double, two a channel.
HS_INLINE void add_to(double* total, Vec part, int64_t lanes) {
  float values[kWidth];
  store(values, part);
  for (int64_t i = 0; i < lanes; ++i) total[i] += static_cast<double>(values[i]);
}

// Ends a block of z: rows x channels float32 at `block`, stored to `z` (null: it is there already); adds to the sums.
template <class S>
void finish_forward(const float* block, int64_t block_row, int64_t rows, int64_t channels, typename S::Value* z,
                    int64_t z_row, double* sums, int64_t sums_stride);

// Ends a block of dx: adds `extra`, multiplies by the slope of the activation that made x, stores, adds to the sums.
template <class S>
struct InputGradient {
  typename S::Value* gx;
  const typename S::Value* extra;  // a gradient of x from elsewhere, or null
  const typename S::Value* z;      // x before its normalisation and activation, or null: neither slope nor sums
  const float* coefficients;       // of that normalisation, or null: there is an activation only
  ActivationSpec activation;
  double* sums;  // this thread's, 2 x channels, or null
  int64_t channels;
  int64_t gx_row, z_row;  // elements from a pixel to the next
};
// The block holds `rows` pixels from pixel `row` on, channels [first, first + count).
template <class S>
void finish_backward(const float* block, int64_t block_row, int64_t row, int64_t rows, int64_t first, int64_t count,
                     const InputGradient<S>& to);

// total[c] = sum over threads of partial[thread][c]; every thread does its share, after a barrier.
HS_INLINE void combine_sums(const double* partial, int threads, int64_t n, int64_t stride, double* total, int thread) {
  const Range mine = share(n, 8, thread, threads);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    double sum = 0.0;
    for (int t = 0; t < threads; ++t) sum += partial[t * stride + i];
    total[i] = sum;
  }
}

// C (inner x columns) += A^T B over `rows` rows: A (rows x inner), B (rows x columns padded to whole vectors).
void gemm_transposed(const float* a, int64_t a_row, int64_t inner, const float* b, int64_t b_row, int64_t columns,
                     int64_t rows, float* c, int64_t c_row);

// Whether this instruction set multiplies pairs of bfloat16 and adds them in float32, at twice the pace.
#if defined(__AVX512BF16__)
inline constexpr bool kPairProducts = true;
#else
inline constexpr bool kPairProducts = false;
#endif

// Products of bfloat16. "Pairs" are two values, one after the other along the inner dimension, in 32 bits.
// B(k, n) = b[k * row + n] in float32, packed into panels of pairs; inner is padded to even with zeros.
void pack_pairs(const float* b, int64_t row, int64_t inner, int64_t columns, uint32_t* packed);
// B(k, n) = b[n * row + k].
void pack_pairs_transposed(const float* b, int64_t row, int64_t inner, int64_t columns, int64_t panel_pairs,
                           uint32_t* packed);
// C = A B + bias, or C += A B; A rows x 2 pairs, `a_row` values apart; panels of B are `panel_pairs` pairs long.
void gemm_pairs(const uint16_t* a, int64_t a_row, int64_t pairs, const uint32_t* packed, int64_t panel_pairs,
                int64_t columns, int64_t rows, const float* bias, bool accumulate, float* c, int64_t c_row);
// Two rows, one after the other, as one row of pairs. `b` null: zeros.
void interleave(const uint16_t* a, const uint16_t* b, int64_t n, uint32_t* pairs);
// C (inner x columns) += A^T B, as above, over rows of pairs.
void gemm_transposed(const uint32_t* a, int64_t a_row, int64_t inner, const uint32_t* b, int64_t b_row, int64_t columns,
                     int64_t row_pairs, float* c, int64_t c_row);

}  // namespace hs::HS_ISA
