// Rows of a table by number, and the gradient of the table.
#include "simd.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, ids, weight, y);
HS_FIELDS(GradientOperands, Buffer, ids, dy, weight_gradient);
HS_FIELDS(Ints, int64_t, rows, channels, vocabulary);

// A number outside the table gives a row of NaN: no memory is read that is not the table's, and no loss hides it.
void embedding(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const int32_t* ids = p.ids;
  const float* weight = p.weight;
  const Range mine = share(d.rows, 1, context.thread, context.threads);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    float* y = static_cast<float*>(p.y) + r * d.channels;
    if (ids[r] >= 0 && ids[r] < d.vocabulary) {
      __builtin_memcpy(y, weight + ids[r] * d.channels, static_cast<size_t>(d.channels) * sizeof(float));
    } else {
      for (int64_t i = 0; i < d.channels; ++i) y[i] = __builtin_nanf("");
    }
  }
}

// Threads share the channels out and add rows in their order, so sums are the same on any number of threads.
void embedding_gradient(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<GradientOperands>(context);
  const int32_t* ids = p.ids;
  const float* dy = p.dy;
  float* gradient = p.weight_gradient;
  const Range all = share(d.vocabulary * d.channels, 16, context.thread, context.threads);
  if (all.end > all.begin)
    __builtin_memset(gradient + all.begin, 0, static_cast<size_t>(all.end - all.begin) * sizeof(float));
  barrier(context);
  const Range mine = share(d.channels, 16, context.thread, context.threads);
  for (int64_t r = 0; r < d.rows; ++r) {
    if (ids[r] < 0 || ids[r] >= d.vocabulary) continue;
    float* to = gradient + ids[r] * d.channels;
    const float* from = dy + r * d.channels;
    for (int64_t i = mine.begin; i < mine.end; ++i) to[i] += from[i];
  }
}

}  // namespace

void add_embedding(KernelTable& table) {
  add_kernel(table, {"embedding", Operands::names, Ints::names, "", embedding, nullptr, nullptr, nullptr});
  add_kernel(table, {"embedding_gradient", GradientOperands::names, Ints::names, "", embedding_gradient, nullptr,
                     nullptr, nullptr});
}

}  // namespace hs::HS_ISA
