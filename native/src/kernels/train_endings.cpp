// The endings of training blocks: sums for batch norm, the activation's slope, a second gradient. Registers nothing
// itself.
#include "slopes.hpp"

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

// What a gradient is multiplied by on its way through the activation that made x.
enum class Slope {
  absent,  // neither activation nor normalisation: z is null
  one,     // a normalisation only
  limits,  // relu, relu6, clip: 1 between the limits, else 0
  hard_swish,
  any,  // computed by a function, for a few rows at a time
};

template <class S, Slope kind, bool adds>
void finish_backward_as(const float* block, int64_t block_row, int64_t row, int64_t rows, int64_t first, int64_t count,
                        const InputGradient<S>& to) {
  constexpr bool normalised = kind != Slope::absent;
  const Limits limits = limits_of(to.activation);
  const Vec low = broadcast(limits.low), high = broadcast(limits.high), whole = broadcast(1.0f);
  [[maybe_unused]] const SlopeFunction slopes = slope_function(to.activation.kind);
  const auto vectors = [&](int64_t c, auto chunk, int64_t lanes) __attribute__((always_inline)) {
    constexpr int n = decltype(chunk)::value;
    Vec scale[n], shift[n], mean[n], inverse[n], sum[n], product[n];
    for (int k = 0; k < n; ++k) {
      sum[k] = product[k] = zero();
      if constexpr (normalised) {
        scale[k] = whole;
        shift[k] = mean[k] = inverse[k] = zero();
        if (to.coefficients == nullptr) continue;
        const float* p = to.coefficients + first + c + k * kWidth;
        scale[k] = Float32::read(p, lanes);
        shift[k] = Float32::read(p + to.channels, lanes);
        mean[k] = Float32::read(p + 2 * to.channels, lanes);
        inverse[k] = Float32::read(p + 3 * to.channels, lanes);
      }
    }
    constexpr int64_t kTogether = kind == Slope::any ? 8 : 1;
    for (int64_t begin = 0; begin < rows; begin += kTogether) {
      const int64_t end = kTogether == 1 ? begin + 1 : min_of(rows, begin + kTogether);
      [[maybe_unused]] float values[kTogether * n * kWidth];
      if constexpr (kind == Slope::any) {
        for (int64_t r = begin; r < end; ++r) {
          const typename S::Value* z = to.z + (row + r) * to.z_row + first + c;
#pragma GCC unroll 4
          for (int k = 0; k < n; ++k)
            store(values + ((r - begin) * n + k) * kWidth, S::read(z + k * kWidth, lanes) * scale[k] + shift[k]);
        }
        slopes(values, values, (end - begin) * n * kWidth, to.activation.alpha, to.activation.beta);
      }
      for (int64_t r = begin; r < end; ++r) {
        const int64_t at = (row + r) * to.channels + first + c, z_at = (row + r) * to.z_row + first + c;
        const int64_t gx_at = (row + r) * to.gx_row + first + c;
#pragma GCC unroll 4
        for (int k = 0; k < n; ++k) {
          Vec g = Float32::read(block + r * block_row + c + k * kWidth, lanes);
          if constexpr (adds) g += S::read(to.extra + at + k * kWidth, lanes);
          if constexpr (normalised) {
            const Vec z = S::read(to.z + z_at + k * kWidth, lanes), y = z * scale[k] + shift[k];
            if constexpr (kind == Slope::limits) g *= select((y > low) & (y < high), whole, zero());
            if constexpr (kind == Slope::hard_swish) g *= slope<Activation::hard_swish>(y, zero(), zero());
            if constexpr (kind == Slope::any) g *= load(values + ((r - begin) * n + k) * kWidth);
            sum[k] += g;
            product[k] += g * ((z - mean[k]) * inverse[k]);
          }
          S::write(to.gx + gx_at + k * kWidth, lanes, g);
        }
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

template <class S, Slope kind>
void finish_backward_by(const float* block, int64_t block_row, int64_t row, int64_t rows, int64_t first, int64_t count,
                        const InputGradient<S>& to) {
  if (to.extra != nullptr)
    finish_backward_as<S, kind, true>(block, block_row, row, rows, first, count, to);
  else
    finish_backward_as<S, kind, false>(block, block_row, row, rows, first, count, to);
}

template <class S>
void finish_backward(const float* block, int64_t block_row, int64_t row, int64_t rows, int64_t first, int64_t count,
                     const InputGradient<S>& to) {
  const Activation activation = to.activation.kind;
  if (to.z == nullptr)
    finish_backward_by<S, Slope::absent>(block, block_row, row, rows, first, count, to);
  else if (activation == Activation::none)
    finish_backward_by<S, Slope::one>(block, block_row, row, rows, first, count, to);
  else if (is_clip(activation))
    finish_backward_by<S, Slope::limits>(block, block_row, row, rows, first, count, to);
  else if (activation == Activation::hard_swish)
    finish_backward_by<S, Slope::hard_swish>(block, block_row, row, rows, first, count, to);
  else
    finish_backward_by<S, Slope::any>(block, block_row, row, rows, first, count, to);
}
template void finish_backward<Float32>(const float*, int64_t, int64_t, int64_t, int64_t, int64_t,
                                       const InputGradient<Float32>&);
template void finish_backward<BFloat16>(const float*, int64_t, int64_t, int64_t, int64_t, int64_t,
                                        const InputGradient<BFloat16>&);
template void finish_backward<Float16>(const float*, int64_t, int64_t, int64_t, int64_t, int64_t,
                                       const InputGradient<Float16>&);

}  // namespace hs::HS_ISA
