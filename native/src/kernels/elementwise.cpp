// Element by element: unary functions, binary arithmetic with broadcasting, and a scale and shift per channel. The
// first two store float32 or, where `half` is 1, bfloat16.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

template <Activation kind>
void activate_all(const float* x, float* y, int64_t n, float alpha, float beta) {
  const Vec a = broadcast(alpha), b = broadcast(beta);
  over_vectors(n, HS_EACH { Float32::write(y + i, lanes, activate<kind>(Float32::read(x + i, lanes), a, b)); });
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

void finish_tile(float* sums, int64_t sums_row, float* c, int64_t c_row, int64_t rows, int64_t columns,
                 ActivationSpec activation, const float* residual, int64_t residual_row) {
  for (int64_t r = 0; r < rows; ++r) {
    float* y = sums + r * sums_row;
    activate_values(y, y, columns, activation);
    for (int64_t i = 0; i < columns; ++i)
      c[r * c_row + i] = residual == nullptr ? y[i] : y[i] + residual[r * residual_row + i];
  }
}

namespace {

HS_FIELDS(UnaryOperands, Buffer, input, output);
HS_FIELDS(UnaryInts, int64_t, count, activation, half);
HS_FIELDS(ActivationFloats, float, alpha, beta);

template <class S>
void unary_stored(const Context& context) {
  const auto& d = ints_of<UnaryInts>(context);
  const auto& p = operands_of<UnaryOperands>(context);
  const auto& f = floats_of<ActivationFloats>(context);
  const typename S::Value* input = p.input;
  typename S::Value* output = p.output;
  const Range mine = share(d.count, 64, context.thread, context.threads);
  load_row<S, S>(input + mine.begin, {nullptr, nullptr, {static_cast<Activation>(d.activation), f.alpha, f.beta}},
                 output + mine.begin, mine.end - mine.begin);
}
void unary(const Context& context) { HS_BY_STORAGE(ints_of<UnaryInts>(context).half, unary_stored, context); }

// y = activation(a op b). Shapes are collapsed to five dimensions; a stride of 0 repeats along a dimension, and strides
// of the last dimension are 0 or 1.
HS_FIELDS(BinaryOperands, Buffer, a, b, output);
HS_FIELDS(BinaryInts, int64_t, operation, d0, d1, d2, d3, d4, a0, a1, a2, a3, a4, b0, b1, b2, b3, b4, activation, half);

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
template <class S, Operation op>
void combine_row(const typename S::Value* a, bool a_moves, const typename S::Value* b, bool b_moves,
                 typename S::Value* y, int64_t n) {
  if (a_moves && b_moves) {
    over_vectors(n, HS_EACH { S::write(y + i, lanes, combine<op>(S::read(a + i, lanes), S::read(b + i, lanes))); });
  } else if (a_moves) {
    const Vec one = broadcast(S::read(b, 1)[0]);
    over_vectors(n, HS_EACH { S::write(y + i, lanes, combine<op>(S::read(a + i, lanes), one)); });
  } else {
    const Vec one = broadcast(S::read(a, 1)[0]);
    over_vectors(
        n, HS_EACH {
          S::write(y + i, lanes, combine<op>(one, b_moves ? S::read(b + i, lanes) : broadcast(S::read(b, 1)[0])));
        });
  }
}

template <class S>
using RowFunction = void (*)(const typename S::Value*, bool, const typename S::Value*, bool, typename S::Value*,
                             int64_t);
template <class S>
RowFunction<S> row_function(int64_t operation) {
  switch (static_cast<Operation>(operation)) {
    case Operation::add:
      return combine_row<S, Operation::add>;
    case Operation::sub:
      return combine_row<S, Operation::sub>;
    case Operation::mul:
      return combine_row<S, Operation::mul>;
    case Operation::div:
      return combine_row<S, Operation::div>;
    case Operation::max:
      return combine_row<S, Operation::max>;
    case Operation::min:
      return combine_row<S, Operation::min>;
  }
  return combine_row<S, Operation::add>;
}

template <class S>
void binary_stored(const Context& context) {
  const auto& d = ints_of<BinaryInts>(context);
  const auto& p = operands_of<BinaryOperands>(context);
  const auto& f = floats_of<ActivationFloats>(context);
  const typename S::Value* a = p.a;
  const typename S::Value* b = p.b;
  typename S::Value* y = p.output;
  const RowFunction<S> combine_rows = row_function<S>(d.operation);
  const ActivationSpec spec{static_cast<Activation>(d.activation), f.alpha, f.beta};
  const int64_t rows = d.d0 * d.d1 * d.d2 * d.d3;
  // Few long rows are cut, many short ones dealt out.
  const bool cut = rows < 4 * context.threads;
  const Range row_range = cut ? Range{0, rows} : share(rows, 1, context.thread, context.threads);
  const Range part = cut ? share(d.d4, 64, context.thread, context.threads) : Range{0, d.d4};
  const int64_t n = part.end - part.begin;
  for (int64_t r = row_range.begin; r < row_range.end; ++r) {
    const int64_t i3 = r % d.d3, i2 = r / d.d3 % d.d2, i1 = r / (d.d3 * d.d2) % d.d1, i0 = r / (d.d3 * d.d2 * d.d1);
    const typename S::Value* ar = a + i0 * d.a0 + i1 * d.a1 + i2 * d.a2 + i3 * d.a3 + part.begin * d.a4;
    const typename S::Value* br = b + i0 * d.b0 + i1 * d.b1 + i2 * d.b2 + i3 * d.b3 + part.begin * d.b4;
    typename S::Value* yr = y + r * d.d4 + part.begin;
    combine_rows(ar, d.a4 != 0, br, d.b4 != 0, yr, n);
    if (spec.kind != Activation::none) load_row<S, S>(yr, {nullptr, nullptr, spec}, yr, n);
  }
}
void binary(const Context& context) { HS_BY_STORAGE(ints_of<BinaryInts>(context).half, binary_stored, context); }

// y = activation(x * scale[c] + shift[c]) over (rows, channels): batch norm that could not be folded.
HS_FIELDS(AffineOperands, Buffer, input, scale, shift, output);
HS_FIELDS(AffineInts, int64_t, rows, channels, activation, input_row);

void affine(const Context& context) {
  const auto& d = ints_of<AffineInts>(context);
  const auto& p = operands_of<AffineOperands>(context);
  const auto& f = floats_of<ActivationFloats>(context);
  const float* scale = p.scale;
  const float* shift = p.shift;
  const ActivationSpec spec{static_cast<Activation>(d.activation), f.alpha, f.beta};
  const Range mine = share(d.rows, 1, context.thread, context.threads);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const float* x = static_cast<const float*>(p.input) + r * row_of(d.input_row, d.channels);
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
