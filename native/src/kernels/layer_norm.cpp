// Layer norm over the last axis, y = (x - mean) / sqrt(variance + epsilon) * weight + bias, and its gradient. The
// gradient finds mean and variance of a row again, from a row that is in the cache anyway, so that nothing but x is
// kept. Source: Ba et al. 2016, "Layer Normalization".
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, x, weight, bias, y);
HS_FIELDS(GradientOperands, Buffer, x, dy, weight, dx, weight_gradient, bias_gradient, workspace);
HS_FIELDS(Ints, int64_t, rows, channels, half);
HS_FIELDS(Floats, float, epsilon);

constexpr int64_t kFlushRows = 32;  // float32 sums of so many rows are added up in float64

HS_INLINE Vec first_lanes(Vec v, int64_t lanes) {
  if (lanes == kWidth) return v;
  float values[kWidth];
  store(values, v);
  return load_part(values, lanes);
}

struct Statistics {
  float mean, inverse;
};
template <class S>
HS_INLINE Statistics statistics(const typename S::Value* x, int64_t n, float epsilon) {
  Vec sum = zero();
  over_vectors(n, HS_EACH { sum += S::read(x + i, lanes); });
  const float mean = sum_of(sum) / static_cast<float>(n);
  const Vec shift = broadcast(mean);
  Vec squares = zero();
  over_vectors(
      n, HS_EACH {
        const Vec d = first_lanes(S::read(x + i, lanes) - shift, lanes);
        squares += d * d;
      });
  return {mean, 1.0f / __builtin_sqrtf(sum_of(squares) / static_cast<float>(n) + epsilon)};
}

template <class S>
void layer_norm(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const float epsilon = floats_of<Floats>(context).epsilon;
  const float *weight = p.weight, *bias = p.bias;
  const Range mine = share(d.rows, 1, context.thread, context.threads);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const typename S::Value* x = static_cast<const typename S::Value*>(p.x) + r * d.channels;
    typename S::Value* y = static_cast<typename S::Value*>(p.y) + r * d.channels;
    const Statistics s = statistics<S>(x, d.channels, epsilon);
    const Vec mean = broadcast(s.mean), inverse = broadcast(s.inverse);
    over_vectors(
        d.channels, HS_EACH {
          const Vec v = (S::read(x + i, lanes) - mean) * inverse;
          S::write(y + i, lanes, v * Float32::read(weight + i, lanes) + Float32::read(bias + i, lanes));
        });
  }
}
void layer_norm_kernel(const Context& context) { HS_BY_STORAGE(ints_of<Ints>(context).half, layer_norm, context); }

// Of each thread: float64 sums of the gradients of weight and bias, then float32 sums of the rows since the last flush.
int64_t thread_doubles(int64_t channels) { return round_up(3 * channels, 8); }

template <class S>
void layer_norm_gradient(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<GradientOperands>(context);
  const float epsilon = floats_of<Floats>(context).epsilon;
  const int64_t n = d.channels, of_thread = thread_doubles(n);
  const float* weight = p.weight;
  const bool sums_up = !p.weight_gradient.absent() || !p.bias_gradient.absent();
  double* all = p.workspace;
  double* total = all + context.thread * of_thread;
  float* recent = reinterpret_cast<float*>(total + 2 * n);
  for (int64_t i = 0; i < 2 * n; ++i) total[i] = 0.0;
  const auto forget = [&] { __builtin_memset(recent, 0, static_cast<size_t>(2 * n) * sizeof(float)); };
  forget();

  const Range mine = share(d.rows, 1, context.thread, context.threads);
  const float share_of_one = 1.0f / static_cast<float>(n);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const typename S::Value* x = static_cast<const typename S::Value*>(p.x) + r * n;
    const typename S::Value* dy = static_cast<const typename S::Value*>(p.dy) + r * n;
    const Statistics s = statistics<S>(x, n, epsilon);
    const Vec mean = broadcast(s.mean), inverse = broadcast(s.inverse);
    Vec sum = zero(), product = zero();
    over_vectors(
        n, HS_EACH {
          const Vec g = S::read(dy + i, lanes), v = (S::read(x + i, lanes) - mean) * inverse;
          const Vec weighted = g * Float32::read(weight + i, lanes);
          sum += weighted;
          product += weighted * v;
          Float32::write(recent + i, lanes, Float32::read(recent + i, lanes) + g * v);
          Float32::write(recent + n + i, lanes, Float32::read(recent + n + i, lanes) + g);
        });
    if (!p.dx.absent()) {
      typename S::Value* dx = static_cast<typename S::Value*>(p.dx) + r * n;
      const Vec of_mean = broadcast(sum_of(sum) * share_of_one), of_spread = broadcast(sum_of(product) * share_of_one);
      over_vectors(
          n, HS_EACH {
            const Vec v = (S::read(x + i, lanes) - mean) * inverse;
            const Vec weighted = S::read(dy + i, lanes) * Float32::read(weight + i, lanes);
            S::write(dx + i, lanes, (weighted - of_mean - v * of_spread) * inverse);
          });
    }
    if ((r - mine.begin) % kFlushRows == kFlushRows - 1 || r + 1 == mine.end) {
      over_vectors(2 * n, HS_EACH { add_to(total + i, Float32::read(recent + i, lanes), lanes); });
      forget();
    }
  }
  if (!sums_up) return;
  barrier(context);
  float* gradients[2] = {p.weight_gradient, p.bias_gradient};
  const Range columns = share(n, 16, context.thread, context.threads);
  for (int which = 0; which < 2; ++which) {
    for (int64_t i = columns.begin; gradients[which] != nullptr && i < columns.end; ++i) {
      double value = 0.0;
      for (int t = 0; t < context.threads; ++t) value += all[t * of_thread + which * n + i];
      gradients[which][i] = static_cast<float>(value);
    }
  }
}
void layer_norm_gradient_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<Ints>(context).half, layer_norm_gradient, context);
}
int64_t gradient_workspace(const int64_t* ints, int threads) {
  return threads * thread_doubles(reinterpret_cast<const Ints*>(ints)->channels) * 8;
}

}  // namespace

void add_layer_norm(KernelTable& table) {
  add_kernel(table,
             {"layer_norm", Operands::names, Ints::names, Floats::names, layer_norm_kernel, nullptr, nullptr, nullptr});
  add_kernel(table, {"layer_norm_gradient", GradientOperands::names, Ints::names, Floats::names,
                     layer_norm_gradient_kernel, gradient_workspace, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
