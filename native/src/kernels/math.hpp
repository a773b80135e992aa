// Elementary functions on vectors: argument reduction and minimax polynomials, a few units in the last place.
// exp and log after Cephes (expf, logf); erf after Abramowitz & Stegun 7.1.26 is too coarse, so it goes through a
// rational approximation of its own (erf as in Eigen's, odd over even polynomial on [-4, 4]).
#pragma once
#include "simd.hpp"

namespace hs::HS_ISA {

HS_INLINE Vec exp_of(Vec x) {
  const Vec given = x;
  x = min_of(max_of(x, broadcast(-87.33654f)), broadcast(88.72283f));
  Vec n = floor_of(x * 1.44269504f + 0.5f);
  n = min_of(n, broadcast(127.0f));
  x = x - n * 0.693359375f;
  x = x - n * -2.12194440e-4f;
  Vec p = broadcast(1.9875691500e-4f);
  p = p * x + 1.3981999507e-3f;
  p = p * x + 8.3334519073e-3f;
  p = p * x + 4.1665795894e-2f;
  p = p * x + 1.6666665459e-1f;
  p = p * x + 5.0000001201e-1f;
  p = p * (x * x) + x + 1.0f;
  const Vec scale = as_floats((truncated(n) + 127) << 23);
  Vec y = p * scale;
  y = select(given > broadcast(88.72283f), broadcast(__builtin_inff()), y);
  y = select(given < broadcast(-87.33654f), zero(), y);
  return select(given == given, y, given);
}

HS_INLINE Vec log_of(Vec x) {
  const Vec given = x;
  const IntVec tiny = x < broadcast(1.17549435e-38f);
  x = select(tiny, x * 8388608.0f, x);  // denormals
  IntVec bits = as_ints(x);
  Vec e = to_floats(((bits >> 23) & 0xff) - 126) - select(tiny, broadcast(23.0f), zero());
  Vec m = as_floats((bits & 0x007fffff) | 0x3f000000);  // in [0.5, 1)
  const IntVec low = m < broadcast(0.707106781f);
  e = e - select(low, broadcast(1.0f), zero());
  m = select(low, m + m, m) - 1.0f;
  const Vec z = m * m;
  Vec p = broadcast(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  Vec y = m * z * p + e * -2.12194440e-4f - z * 0.5f;
  y = m + y + e * 0.693359375f;
  y = select(given == zero(), broadcast(-__builtin_inff()), y);
  y = select(given < zero(), broadcast(__builtin_nanf("")), y);
  return select(given < broadcast(__builtin_inff()), y, select(given == given, given, given));
}

HS_INLINE Vec sigmoid_of(Vec x) {
  // From the negative half, where exp can't overflow: sigmoid(-x) = 1 - sigmoid(x).
  const Vec e = exp_of(zero() - abs_of(x));
  const Vec half = broadcast(1.0f) / (broadcast(1.0f) + e);
  return select(x >= zero(), half, e * half);
}

HS_INLINE Vec tanh_of(Vec x) {
  // Near zero a short odd series: (1 - e) / (1 + e) would lose the leading digits.
  const Vec a = abs_of(x);
  const Vec e = exp_of(a * -2.0f);
  Vec large = (broadcast(1.0f) - e) / (broadcast(1.0f) + e);
  large = select(x < zero(), zero() - large, large);
  const Vec z = x * x;
  Vec p = broadcast(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const Vec small = p * z * x + x;
  return select(a < broadcast(0.625f), small, large);
}

HS_INLINE Vec erf_of(Vec x) {
  const Vec given = x;
  x = min_of(max_of(x, broadcast(-4.0f)), broadcast(4.0f));
  const Vec z = x * x;
  Vec p = broadcast(-2.72614225801306e-10f);
  p = p * z + 2.77068142495902e-08f;
  p = p * z - 2.10102402082508e-06f;
  p = p * z - 5.69250639462346e-05f;
  p = p * z - 7.34990630326855e-04f;
  p = p * z - 2.95459980854025e-03f;
  p = p * z - 1.60960333262415e-02f;
  Vec q = broadcast(-1.45660718464996e-05f);
  q = q * z - 2.13374055278905e-04f;
  q = q * z - 1.68282697438203e-03f;
  q = q * z - 7.37332916720468e-03f;
  q = q * z - 1.42647390514189e-02f;
  return select(given == given, x * p / q, given);
}

HS_INLINE Vec softplus_of(Vec x) { return max_of(x, zero()) + log_of(broadcast(1.0f) + exp_of(zero() - abs_of(x))); }

}  // namespace hs::HS_ISA
