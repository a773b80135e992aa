// Element by element: unary functions, binary arithmetic with broadcasting, and a scale and shift per channel.
#include "activation.hpp"

namespace hs::HS_ISA {
namespace {

template <Activation kind>
void activate_all(const float* x, float* y, int64_t n, float alpha, float beta) {
  const Vec a = broadcast(alpha), b = broadcast(beta);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, activate<kind>(load(x + i), a, b));
  if (i < n) store_part(y + i, n - i, activate<kind>(load_part(x + i, n - i), a, b));
}

}  // namespace

void activate_values(const float* x, float* y, int64_t n, ActivationSpec spec) {
  switch (spec.kind) {
#define HS_CASE(name)    \
  case Activation::name: \
    return activate_all<Activation::name>(x, y, n, spec.alpha, spec.beta);
    HS_FOR_EACH_ACTIVATION(HS_CASE)
#undef HS_CASE
  }
}

namespace {

HS_FIELDS(UnaryOperands, Buffer, input, output);
HS_FIELDS(UnaryInts, int64_t, count, activation);
HS_FIELDS(ActivationFloats, float, alpha, beta);

void unary(const Context& context) {
  const auto& d = ints_of<UnaryInts>(context);
  const auto& p = operands_of<UnaryOperands>(context);
  const auto& f = floats_of<ActivationFloats>(context);
  const Range mine = share(d.count, 16, context.thread, context.threads);
  activate_values(static_cast<const float*>(p.input) + mine.begin, static_cast<float*>(p.output) + mine.begin,
                  mine.end - mine.begin, {static_cast<Activation>(d.activation), f.alpha, f.beta});
}

// y = activation(a op b). Shapes are collapsed to five dimensions; a stride of 0 repeats along a dimension, and strides
// of the last dimension are 0 or 1.
HS_FIELDS(BinaryOperands, Buffer, a, b, output);
HS_FIELDS(BinaryInts, int64_t, operation, d0, d1, d2, d3, d4, a0, a1, a2, a3, a4, b0, b1, b2, b3, b4, activation);

enum class Operation : int64_t { add, sub, mul, div, max, min };

template <Operation op>
HS_INLINE Vec combine(Vec a, Vec b) {
  if constexpr (op == Operation::add) return a + b;
  if constexpr (op == Operation::sub) return a - b;
  if constexpr (op == Operation::mul) return a * b;
  if constexpr (op == Operation::div) return a / b;
  if constexpr (op == Operation::max) return max_of(a, b);
  if constexpr (op == Operation::min) return min_of(a, b);
}

// One run of the last dimension; a and b each advance or repeat.
template <Operation op>
void combine_row(const float* a, bool a_moves, const float* b, bool b_moves, float* y, int64_t n) {
  const auto at = [](const float* p, bool moves, int64_t i, int64_t lanes) __attribute__((always_inline)) {
    if (!moves) return broadcast(*p);
    return lanes == kWidth ? load(p + i) : load_part(p + i, lanes);
  };
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, combine<op>(at(a, a_moves, i, kWidth), at(b, b_moves, i, kWidth)));
  const int64_t rest = n - i;
  if (rest > 0) store_part(y + i, rest, combine<op>(at(a, a_moves, i, rest), at(b, b_moves, i, rest)));
}

using RowFunction = void (*)(const float*, bool, const float*, bool, float*, int64_t);
RowFunction row_function(int64_t operation) {
  switch (static_cast<Operation>(operation)) {
    case Operation::add:
      return combine_row<Operation::add>;
    case Operation::sub:
      return combine_row<Operation::sub>;
    case Operation::mul:
      return combine_row<Operation::mul>;
    case Operation::div:
      return combine_row<Operation::div>;
    case Operation::max:
      return combine_row<Operation::max>;
    case Operation::min:
      return combine_row<Operation::min>;
  }
  return combine_row<Operation::add>;
}

void binary(const Context& context) {
  const auto& d = ints_of<BinaryInts>(context);
  const auto& p = operands_of<BinaryOperands>(context);
  const auto& f = floats_of<ActivationFloats>(context);
  const float* a = p.a;
  const float* b = p.b;
  float* y = p.output;
  const RowFunction combine_rows = row_function(d.operation);
  const ActivationSpec spec{static_cast<Activation>(d.activation), f.alpha, f.beta};
  const int64_t rows = d.d0 * d.d1 * d.d2 * d.d3;
  // Few long rows are cut, many short ones dealt out.
  const bool cut = rows < 4 * context.threads;
  const Range row_range = cut ? Range{0, rows} : share(rows, 1, context.thread, context.threads);
  const Range part = cut ? share(d.d4, 16, context.thread, context.threads) : Range{0, d.d4};
  const int64_t n = part.end - part.begin;
  for (int64_t r = row_range.begin; r < row_range.end; ++r) {
    const int64_t i3 = r % d.d3, i2 = r / d.d3 % d.d2, i1 = r / (d.d3 * d.d2) % d.d1, i0 = r / (d.d3 * d.d2 * d.d1);
    const float* ar = a + i0 * d.a0 + i1 * d.a1 + i2 * d.a2 + i3 * d.a3 + part.begin * d.a4;
    const float* br = b + i0 * d.b0 + i1 * d.b1 + i2 * d.b2 + i3 * d.b3 + part.begin * d.b4;
    float* yr = y + r * d.d4 + part.begin;
    combine_rows(ar, d.a4 != 0, br, d.b4 != 0, yr, n);
    if (spec.kind != Activation::none) activate_values(yr, yr, n, spec);
  }
}

// y = activation(x * scale[c] + shift[c]) over (rows, channels): batch norm that could not be folded.
HS_FIELDS(AffineOperands, Buffer, input, scale, shift, output);
HS_FIELDS(AffineInts, int64_t, rows, channels, activation);

void affine(const Context& context) {
  const auto& d = ints_of<AffineInts>(context);
  const auto& p = operands_of<AffineOperands>(context);
  const auto& f = floats_of<ActivationFloats>(context);
  const float* scale = p.scale;
  const float* shift = p.shift;
  const ActivationSpec spec{static_cast<Activation>(d.activation), f.alpha, f.beta};
  const Range mine = share(d.rows, 1, context.thread, context.threads);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const float* x = static_cast<const float*>(p.input) + r * d.channels;
    float* y = static_cast<float*>(p.output) + r * d.channels;
    int64_t c = 0;
    for (; c + kWidth <= d.channels; c += kWidth) store(y + c, load(x + c) * load(scale + c) + load(shift + c));
    const int64_t rest = d.channels - c;
    if (rest > 0)
      store_part(y + c, rest, load_part(x + c, rest) * load_part(scale + c, rest) + load_part(shift + c, rest));
    if (spec.kind != Activation::none) activate_values(y, y, d.channels, spec);
  }
}

}  // namespace

void add_elementwise(KernelTable& table) {
  add_kernel(table, {"unary", UnaryOperands::names, UnaryInts::names, ActivationFloats::names, unary, nullptr, nullptr,
                     nullptr});
  add_kernel(table, {"binary", BinaryOperands::names, BinaryInts::names, ActivationFloats::names, binary, nullptr,
                     nullptr, nullptr});
  add_kernel(table, {"affine", AffineOperands::names, AffineInts::names, ActivationFloats::names, affine, nullptr,
                     nullptr, nullptr});
}

}  // namespace hs::HS_ISA
