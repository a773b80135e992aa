// Slopes of activations, in registers. Few sources inline them: there are many activations, and most are long.
#pragma once
#include "train.hpp"

namespace hs::HS_ISA {

// d activation / d x at the value before the activation. At the corner of a limit it is zero, as PyTorch has it.
template <Activation kind>
HS_INLINE Vec slope(Vec x, Vec alpha, Vec beta) {
  const Vec one = broadcast(1.0f), half = broadcast(0.5f);
  if constexpr (kind == Activation::relu) return select(x > zero(), one, zero());
  if constexpr (kind == Activation::relu6) return select((x > zero()) & (x < broadcast(6.0f)), one, zero());
  if constexpr (kind == Activation::clip) return select((x > alpha) & (x < beta), one, zero());
  if constexpr (kind == Activation::leaky_relu) return select(x > zero(), one, alpha);
  if constexpr (kind == Activation::hard_sigmoid) {
    const Vec y = x * alpha + beta;
    return select((y > zero()) & (y < one), alpha, zero());
  }
  if constexpr (kind == Activation::hard_swish) {
    const Vec inner = x * (1.0f / 3.0f) + half;
    return select(x <= broadcast(-3.0f), zero(), select(x >= broadcast(3.0f), one, inner));
  }
  if constexpr (kind == Activation::sigmoid) {
    const Vec s = sigmoid_of(x);
    return s * (one - s);
  }
  if constexpr (kind == Activation::silu) {
    const Vec s = sigmoid_of(x);
    return s * (one + x * (one - s));
  }
  if constexpr (kind == Activation::tanh) {
    const Vec t = tanh_of(x);
    return one - t * t;
  }
  if constexpr (kind == Activation::gelu)
    return half * (one + erf_of(x * 0.70710678f)) + x * exp_of(x * x * -0.5f) * 0.39894228f;
  if constexpr (kind == Activation::gelu_tanh) {
    const Vec t = tanh_of((x + x * x * x * 0.044715f) * 0.79788456f);
    return half * (one + t) + half * x * (one - t * t) * (x * x * (3.0f * 0.044715f) + one) * 0.79788456f;
  }
  if constexpr (kind == Activation::elu) return select(x > zero(), one, alpha * exp_of(x));
  if constexpr (kind == Activation::exp) return exp_of(x);
  if constexpr (kind == Activation::log) return one / x;
  if constexpr (kind == Activation::sqrt) return half / sqrt_of(x);
  if constexpr (kind == Activation::neg) return broadcast(-1.0f);
  if constexpr (kind == Activation::abs) return select(x > zero(), one, select(x < zero(), broadcast(-1.0f), zero()));
  if constexpr (kind == Activation::softplus) return sigmoid_of(x);
  if constexpr (kind == Activation::mish) {
    const Vec t = tanh_of(softplus_of(x));
    return t + x * (one - t * t) * sigmoid_of(x);
  }
  if constexpr (kind == Activation::reciprocal) return zero() - one / (x * x);
  if constexpr (kind == Activation::square) return x + x;
  if constexpr (kind == Activation::erf) return exp_of(zero() - x * x) * 1.12837917f;
  if constexpr (kind == Activation::floor) return zero();
  return one;
}

}  // namespace hs::HS_ISA
