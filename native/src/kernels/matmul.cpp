// Products of matrices, many at once: y = a b, either transposed on request.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, a, b, y, workspace);
HS_FIELDS(Ints, int64_t, batch, rows, inner, columns, transpose_a, transpose_b);

// In floats. A transposed product takes B in padded rows, another in panels.
int64_t copy_floats(const Ints& d) {
  return d.transpose_a != 0 ? d.inner * round_up(d.columns, kWidth) : packed_floats(d.inner, d.columns);
}
// With many products each thread computes whole ones, with few all threads share each.
bool whole(const Ints& d, int threads) { return d.batch >= 2 * threads; }

// This thread's part of one product; `together`: other threads do the rest.
void multiply(const Context& context, const Ints& d, const float* a, const float* b, float* y, float* copy,
              bool together) {
  const int thread = together ? context.thread : 0, threads = together ? context.threads : 1;
  const int64_t b_row = d.transpose_b != 0 ? 1 : d.columns, b_column = d.transpose_b != 0 ? d.inner : 1;
  if (d.transpose_a != 0) {
    const int64_t padded = round_up(d.columns, kWidth);
    const Range copied = share(d.inner, 1, thread, threads);
    for (int64_t k = copied.begin; k < copied.end; ++k)
      for (int64_t n = 0; n < padded; ++n) copy[k * padded + n] = n < d.columns ? b[k * b_row + n * b_column] : 0.0f;
    const Range mine = share(d.rows, kTileRows, thread, threads);
    const int64_t count = mine.end - mine.begin;
    if (count > 0)
      __builtin_memset(y + mine.begin * d.columns, 0, static_cast<size_t>(count * d.columns) * sizeof(float));
    if (together) barrier(context);
    if (count > 0)
      gemm_transposed(a + mine.begin, d.rows, count, copy, padded, d.columns, d.inner, y + mine.begin * d.columns,
                      d.columns);
    return;
  }
  const Range packed = share(d.columns, kPanel, thread, threads);
  if (packed.end > packed.begin)
    pack_panels(b + packed.begin * b_column, b_row, b_column, d.inner, packed.end - packed.begin,
                copy + packed.begin * d.inner);
  if (together) barrier(context);
  Gemm g{};
  g.rows = d.rows;
  g.columns = d.columns;
  g.inner = d.inner;
  g.a = a;
  g.a_row = d.inner;
  g.b = copy;
  g.b_inner = kPanel;
  g.b_panel = d.inner * kPanel;
  g.c = y;
  g.c_row = d.columns;
  gemm(g, thread, threads);
}

void matmul(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const float *a = p.a, *b = p.b;
  float *y = p.y, *copies = p.workspace;
  const int64_t a_size = d.rows * d.inner, b_size = d.inner * d.columns, y_size = d.rows * d.columns;
  if (whole(d, context.threads)) {
    const Range mine = share(d.batch, 1, context.thread, context.threads);
    for (int64_t i = mine.begin; i < mine.end; ++i)
      multiply(context, d, a + i * a_size, b + i * b_size, y + i * y_size,
               copies + context.thread * round_up(copy_floats(d), 16), false);
    return;
  }
  for (int64_t i = 0; i < d.batch; ++i) {
    if (i > 0) barrier(context);  // the copy of B is in use till then
    multiply(context, d, a + i * a_size, b + i * b_size, y + i * y_size, copies, true);
  }
}
int64_t workspace(const int64_t* ints, int threads) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  return (whole(d, threads) ? threads : 1) * round_up(copy_floats(d), 16) * 4;
}

}  // namespace

void add_matmul(KernelTable& table) {
  add_kernel(table, {"matmul", Operands::names, Ints::names, "", matmul, workspace, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
