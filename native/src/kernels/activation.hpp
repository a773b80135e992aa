// The activations that follow a kernel or stand alone; `alpha` and `beta` are their parameters:
//   clip(low, high), leaky_relu(slope), hard_sigmoid(slope, offset), elu(scale).
#pragma once
#include "math.hpp"

namespace hs::HS_ISA {

struct ActivationSpec {
  Activation kind;
  float alpha, beta;
};

// relu, relu6 and clip are one: a pair of limits that kernels apply in registers. `none` has none.
struct Limits {
  float low, high;
};
HS_INLINE bool is_clip(Activation kind) {
  return kind == Activation::none || kind == Activation::relu || kind == Activation::relu6 || kind == Activation::clip;
}
HS_INLINE Limits limits_of(ActivationSpec spec) {
  const float infinity = __builtin_inff();
  switch (spec.kind) {
    case Activation::relu:
      return {0.0f, infinity};
    case Activation::relu6:
      return {0.0f, 6.0f};
    case Activation::clip:
      return {spec.alpha, spec.beta};
    default:
      return {-infinity, infinity};
  }
}

template <Activation kind>
HS_INLINE Vec activate(Vec x, Vec alpha, Vec beta) {
  const Vec one = broadcast(1.0f);
  if constexpr (kind == Activation::none) return x;
  // The value stands second: x86-64's max and min return the second where one is NaN, so NaN gets through.
  if constexpr (kind == Activation::relu) return max_of(zero(), x);
  if constexpr (kind == Activation::relu6) return min_of(broadcast(6.0f), max_of(zero(), x));
  if constexpr (kind == Activation::clip) return min_of(beta, max_of(alpha, x));
  if constexpr (kind == Activation::leaky_relu) return select(x < zero(), x * alpha, x);
  if constexpr (kind == Activation::hard_sigmoid) return min_of(one, max_of(zero(), x * alpha + beta));
  if constexpr (kind == Activation::hard_swish) return x * min_of(one, max_of(zero(), x * (1.0f / 6.0f) + 0.5f));
  if constexpr (kind == Activation::sigmoid) return sigmoid_of(x);
  if constexpr (kind == Activation::silu) return x * sigmoid_of(x);
  if constexpr (kind == Activation::tanh) return tanh_of(x);
  if constexpr (kind == Activation::gelu) return x * 0.5f * (one + erf_of(x * 0.70710678f));
  if constexpr (kind == Activation::gelu_tanh)
    return x * 0.5f * (one + tanh_of((x + x * x * x * 0.044715f) * 0.79788456f));
  if constexpr (kind == Activation::elu) return select(x < zero(), alpha * (exp_of(x) - one), x);
  if constexpr (kind == Activation::exp) return exp_of(x);
  if constexpr (kind == Activation::log) return log_of(x);
  if constexpr (kind == Activation::sqrt) return sqrt_of(x);
  if constexpr (kind == Activation::neg) return zero() - x;
  if constexpr (kind == Activation::abs) return abs_of(x);
  if constexpr (kind == Activation::softplus) return softplus_of(x);
  if constexpr (kind == Activation::mish) return x * tanh_of(softplus_of(x));
  if constexpr (kind == Activation::reciprocal) return one / x;
  if constexpr (kind == Activation::square) return x * x;
  if constexpr (kind == Activation::erf) return erf_of(x);
  if constexpr (kind == Activation::floor) return floor_of(x);
}

// y = activation(x) for n values; in place is fine.
void activate_values(const float* x, float* y, int64_t n, ActivationSpec spec);

// Activations that are no pair of limits: the sums of a tile, `sums_row` apart, are in a buffer first, so that C may be
// the residual's memory. The residual, or null, is added after the activation.
void finish_tile(float* sums, int64_t sums_row, float* c, int64_t c_row, int64_t rows, int64_t columns,
                 ActivationSpec activation, const float* residual, int64_t residual_row);

}  // namespace hs::HS_ISA
