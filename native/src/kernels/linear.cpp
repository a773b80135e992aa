// Fully connected layer: output (rows, columns) = activation(input (rows, inner) x weights + bias + residual).
// Weights are given as (inner, columns) and packed into panels.
#include "gemm.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, input, weights, bias, residual, output);
HS_FIELDS(Ints, int64_t, rows, inner, columns, activation, residual_after);
HS_FIELDS(Floats, float, alpha, beta);

void linear(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const auto& f = floats_of<Floats>(context);
  Gemm g{};
  g.rows = d.rows;
  g.columns = d.columns;
  g.inner = d.inner;
  g.a = p.input;
  g.a_row = d.inner;
  g.b = p.weights;
  g.b_inner = kPanel;
  g.b_panel = d.inner * kPanel;
  g.c = p.output;
  g.c_row = d.columns;
  g.epilogue = {
      p.bias, p.residual, d.columns, d.residual_after != 0, {static_cast<Activation>(d.activation), f.alpha, f.beta}};
  gemm(g, context.thread, context.threads);
}

int64_t packed_bytes(const int64_t* ints) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  return packed_floats(d.inner, d.columns) * 4;
}

const char* pack(const int64_t* ints, const PackInput* inputs, int count, void* packed) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  if (count != 1 || inputs[0].type != 'f' || inputs[0].elements != d.inner * d.columns)
    return "needs one float32 array (inner, columns)";
  pack_panels(static_cast<const float*>(inputs[0].data), d.columns, 1, d.inner, d.columns, static_cast<float*>(packed));
  return nullptr;
}

}  // namespace

void add_linear(KernelTable& table) {
  add_kernel(table, {"linear", Operands::names, Ints::names, Floats::names, linear, nullptr, packed_bytes, pack});
}

}  // namespace hs::HS_ISA
