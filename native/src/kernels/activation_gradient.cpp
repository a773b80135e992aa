// Slopes of activations: for the endings of training blocks, and as a kernel of their own. Compiled once for float32;
// other storage is widened, a few vectors at a time.
#include "slopes.hpp"

namespace hs::HS_ISA {
namespace {

template <Activation kind>
void slopes_of(const float* x, float* y, int64_t n, float alpha, float beta) {
  const Vec a = broadcast(alpha), b = broadcast(beta);
  over_vectors(n, HS_EACH { Float32::write(y + i, lanes, slope<kind>(Float32::read(x + i, lanes), a, b)); });
}

// dx = dy * slope(x)
HS_FIELDS(Operands, Buffer, x, dy, dx);
HS_FIELDS(Ints, int64_t, count, activation, half);
HS_FIELDS(Floats, float, alpha, beta);

template <class S>
void unary_gradient(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const auto& f = floats_of<Floats>(context);
  const typename S::Value *x = p.x, *dy = p.dy;
  typename S::Value* dx = p.dx;
  const SlopeFunction slopes = slope_function(static_cast<Activation>(d.activation));
  constexpr int64_t kChunk = 256;
  float values[kChunk];
  const Range mine = share(d.count, 64, context.thread, context.threads);
  for (int64_t at = mine.begin; at < mine.end; at += kChunk) {
    const int64_t n = min_of(kChunk, mine.end - at);
    if constexpr (!S::is_float)
      over_vectors(n, HS_EACH { Float32::write(values + i, lanes, S::read(x + at + i, lanes)); });
    slopes(S::is_float ? reinterpret_cast<const float*>(x) + at : values, values, n, f.alpha, f.beta);
    over_vectors(
        n, HS_EACH { S::write(dx + at + i, lanes, S::read(dy + at + i, lanes) * Float32::read(values + i, lanes)); });
  }
}
void unary_gradient_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<Ints>(context).half, unary_gradient, context);
}

}  // namespace

SlopeFunction slope_function(Activation kind) {
  switch (kind) {
#define HS_CASE(name)    \
  case Activation::name: \
    return slopes_of<Activation::name>;
    HS_FOR_EACH_ACTIVATION(HS_CASE)
#undef HS_CASE
  }
  return nullptr;
}

void add_activation_gradient(KernelTable& table) {
  add_kernel(table, {"unary_gradient", Operands::names, Ints::names, Floats::names, unary_gradient_kernel, nullptr,
                     nullptr, nullptr});
}

}  // namespace hs::HS_ISA
