// Reductions over one axis of (outer, reduce, inner), and softmax over the last axis.
#include "math.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, input, output);
HS_FIELDS(ReduceInts, int64_t, outer, reduce, inner, function);

enum class Function : int64_t { sum, mean, max, min };

HS_INLINE Vec combine(Function f, Vec a, Vec b) {
  if (f == Function::max) return max_of(a, b);
  if (f == Function::min) return min_of(a, b);
  return a + b;
}
HS_INLINE float neutral(Function f) {
  if (f == Function::max) return -__builtin_inff();
  if (f == Function::min) return __builtin_inff();
  return 0.0f;
}
HS_INLINE Vec load_or(const float* p, int64_t lanes, float other) {
  if (lanes >= kWidth) return load(p);
  Vec v = load_part(p, lanes);
  for (int64_t i = lanes; i < kWidth; ++i) v[i] = other;
  return v;
}
HS_INLINE float fold(Function f, Vec v) {
  float result = v[0];
  for (int i = 1; i < kWidth; ++i) {
    const float x = v[i];
    result = f == Function::max   ? (x > result || x != x ? x : result)
             : f == Function::min ? (x < result || x != x ? x : result)
                                  : result + x;
  }
  return result;
}

// The reduced axis is the last one: lanes run along it.
float reduce_run(Function f, const float* x, int64_t n) {
  Vec total[4];
  for (Vec& t : total) t = broadcast(neutral(f));
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth)
    for (int u = 0; u < 4; ++u) total[u] = combine(f, total[u], load(x + i + u * kWidth));
  for (; i < n; i += kWidth) total[0] = combine(f, total[0], load_or(x + i, n - i, neutral(f)));
  return fold(f, combine(f, combine(f, total[0], total[1]), combine(f, total[2], total[3])));
}

void reduce(const Context& context) {
  const auto& d = ints_of<ReduceInts>(context);
  const auto& p = operands_of<Operands>(context);
  const auto f = static_cast<Function>(d.function);
  const float* input = p.input;
  float* output = p.output;
  const float scale = f == Function::mean ? 1.0f / static_cast<float>(d.reduce) : 1.0f;
  if (d.inner == 1) {
    const Range mine = share(d.outer, 1, context.thread, context.threads);
    for (int64_t o = mine.begin; o < mine.end; ++o) output[o] = reduce_run(f, input + o * d.reduce, d.reduce) * scale;
    return;
  }
  const int64_t blocks = divide_up(d.inner, kWidth);
  const Range mine = share(d.outer * blocks, 1, context.thread, context.threads);
  for (int64_t at = mine.begin; at < mine.end; ++at) {
    const int64_t o = at / blocks, c = at % blocks * kWidth, lanes = min_of(kWidth, d.inner - c);
    const float* x = input + o * d.reduce * d.inner + c;
    Vec total = broadcast(neutral(f));
    for (int64_t i = 0; i < d.reduce; ++i, x += d.inner)
      total = combine(f, total, lanes == kWidth ? load(x) : load_part(x, lanes));
    store_part(output + o * d.inner + c, lanes, total * scale);
  }
}

HS_FIELDS(SoftmaxInts, int64_t, rows, channels, log);

void softmax(const Context& context) {
  const auto& d = ints_of<SoftmaxInts>(context);
  const auto& p = operands_of<Operands>(context);
  const Range mine = share(d.rows, 1, context.thread, context.threads);
  const float lowest = -__builtin_inff();
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const float* x = static_cast<const float*>(p.input) + r * d.channels;
    float* y = static_cast<float*>(p.output) + r * d.channels;
    const Vec top = broadcast(reduce_run(Function::max, x, d.channels));
    Vec sum = zero();
    for (int64_t i = 0; i < d.channels; i += kWidth) {
      const int64_t lanes = min_of(kWidth, d.channels - i);
      const Vec shifted = load_or(x + i, lanes, lowest) - top;
      const Vec e = exp_of(shifted);
      sum += e;
      store_part(y + i, lanes, d.log != 0 ? shifted : e);
    }
    const Vec total = broadcast(sum_of(sum));
    const Vec scale = broadcast(1.0f) / total, shift = log_of(total);
    for (int64_t i = 0; i < d.channels; i += kWidth) {
      const int64_t lanes = min_of(kWidth, d.channels - i);
      const Vec v = load_part(y + i, lanes);
      store_part(y + i, lanes, d.log != 0 ? v - shift : v * scale);
    }
  }
}

}  // namespace

void add_reduction(KernelTable& table) {
  add_kernel(table, {"reduce", Operands::names, ReduceInts::names, Nothing::names, reduce, nullptr, nullptr, nullptr});
  add_kernel(table,
             {"softmax", Operands::names, SoftmaxInts::names, Nothing::names, softmax, nullptr, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
