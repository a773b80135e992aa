// Cross entropy and the guard that decides whether a step may change the parameters.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

// Mean over rows of -sum_k t_k log softmax(x)_k. t is one-hot of `labels` (int32, (rows,)), or the row of `soft`
// (float32, (rows, channels)), mixed with the uniform distribution by `smoothing` (Szegedy et al. 2016, section 7).
// Rows whose label is `ignored` count nothing, neither in the sum nor in the mean; where all are, the loss is 0.
HS_FIELDS(LossOperands, Buffer, logits, labels, soft, loss, workspace);
HS_FIELDS(GradientOperands, Buffer, logits, labels, soft, dloss, dlogits);
HS_FIELDS(Rows, int64_t, rows, channels, ignores, ignored);
HS_FIELDS(Smoothing, float, smoothing);

struct Row {
  const float* x;
  int64_t label;
  const float* soft;
  int64_t channels;
  float smoothing;
};
HS_INLINE Row row_of(const float* logits, const int32_t* labels, const float* soft, int64_t r, int64_t channels,
                     float smoothing) {
  return {logits + r * channels, labels != nullptr ? labels[r] : -1, soft != nullptr ? soft + r * channels : nullptr,
          channels, smoothing};
}

// Whether a label counts, and how many do.
HS_INLINE bool counts(const Rows& d, const int32_t* labels, int64_t r) {
  return d.ignores == 0 || labels == nullptr || labels[r] != d.ignored;
}
HS_INLINE int64_t counted_rows(const Rows& d, const int32_t* labels) {
  int64_t count = 0;
  for (int64_t r = 0; r < d.rows; ++r) count += counts(d, labels, r);
  return max_of(count, 1);
}

struct Normaliser {
  float most, log_sum;
};
HS_INLINE Normaliser normaliser(const float* x, int64_t n) {
  float most = x[0];
  for (int64_t i = 1; i < n; ++i) most = x[i] > most ? x[i] : most;
  double sum = 0.0;
  const Vec shift = broadcast(most);
  over_vectors(
      n, HS_EACH {
        float values[kWidth];
        store(values, exp_of(Float32::read(x + i, lanes) - shift));
        for (int64_t k = 0; k < lanes; ++k) sum += static_cast<double>(values[k]);
      });
  return {most, static_cast<float>(__builtin_log(sum))};
}

void softmax_cross_entropy(const Context& context) {
  const auto& d = ints_of<Rows>(context);
  const auto& p = operands_of<LossOperands>(context);
  const float smoothing = floats_of<Smoothing>(context).smoothing;
  double* losses = p.workspace;
  const Range mine = share(d.rows, 1, context.thread, context.threads);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    losses[r] = 0.0;
    if (!counts(d, p.labels, r)) continue;
    const Row row = row_of(p.logits, p.labels, p.soft, r, d.channels, smoothing);
    const Normaliser z = normaliser(row.x, d.channels);
    const double lse = static_cast<double>(z.most) + static_cast<double>(z.log_sum);
    double target = 0.0, uniform = 0.0, weight = 1.0;
    if (row.soft != nullptr) {
      weight = 0.0;
      for (int64_t i = 0; i < d.channels; ++i) {
        target += static_cast<double>(row.soft[i]) * static_cast<double>(row.x[i]);
        weight += static_cast<double>(row.soft[i]);
      }
    } else {
      target = static_cast<double>(row.x[row.label]);
    }
    if (smoothing > 0.0f)
      for (int64_t i = 0; i < d.channels; ++i)
        uniform += static_cast<double>(row.x[i]) / static_cast<double>(d.channels);
    const double e = static_cast<double>(smoothing);
    losses[r] = (1.0 - e) * (weight * lse - target) + e * (lse - uniform);
  }
  barrier(context);
  if (context.thread != 0) return;
  double total = 0.0;
  for (int64_t r = 0; r < d.rows; ++r) total += losses[r];
  *static_cast<float*>(p.loss) = static_cast<float>(total / static_cast<double>(counted_rows(d, p.labels)));
}
int64_t loss_workspace(const int64_t* ints, int) { return reinterpret_cast<const Rows*>(ints)->rows * 8; }

void softmax_cross_entropy_gradient(const Context& context) {
  const auto& d = ints_of<Rows>(context);
  const auto& p = operands_of<GradientOperands>(context);
  const float smoothing = floats_of<Smoothing>(context).smoothing;
  const float scale = *static_cast<const float*>(p.dloss) / static_cast<float>(counted_rows(d, p.labels));
  const Range mine = share(d.rows, 1, context.thread, context.threads);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    float* dx = static_cast<float*>(p.dlogits) + r * d.channels;
    if (!counts(d, p.labels, r)) {
      __builtin_memset(dx, 0, static_cast<size_t>(d.channels) * sizeof(float));
      continue;
    }
    const Row row = row_of(p.logits, p.labels, p.soft, r, d.channels, smoothing);
    const Normaliser z = normaliser(row.x, d.channels);
    float weight = 1.0f;
    if (row.soft != nullptr) {
      weight = 0.0f;
      for (int64_t i = 0; i < d.channels; ++i) weight += row.soft[i];
    }
    const Vec most = broadcast(z.most), log_sum = broadcast(z.log_sum);
    const float total = (1.0f - smoothing) * weight + smoothing, uniform = smoothing / static_cast<float>(d.channels);
    over_vectors(
        d.channels, HS_EACH {
          Vec g = exp_of(Float32::read(row.x + i, lanes) - most - log_sum) * total - uniform;
          if (row.soft != nullptr) g -= Float32::read(row.soft + i, lanes) * (1.0f - smoothing);
          Float32::write(dx + i, lanes, g * scale);
        });
    if (row.soft == nullptr) dx[row.label] -= (1.0f - smoothing) * scale;
  }
}

// total' = total + sum of squares of g, in float64.
HS_FIELDS(NormOperands, Buffer, before, g, total, workspace);
HS_FIELDS(Count, int64_t, count);
void add_square_sum(const Context& context) {
  const auto& p = operands_of<NormOperands>(context);
  const float* g = p.g;
  double* parts = p.workspace;
  const Range mine = share(ints_of<Count>(context).count, 64, context.thread, context.threads);
  double sum = 0.0;
  for (int64_t begin = mine.begin; begin < mine.end; begin += 4096) {
    Vec squares = zero();
    over_vectors(
        min_of(4096, mine.end - begin), HS_EACH {
          const Vec v = Float32::read(g + begin + i, lanes);
          squares += v * v;
        });
    sum += static_cast<double>(sum_of(squares));
  }
  parts[context.thread * 8] = sum;
  barrier(context);
  if (context.thread != 0) return;
  double total = p.before.absent() ? 0.0 : *static_cast<const double*>(p.before);
  for (int t = 0; t < context.threads; ++t) total += parts[t * 8];
  *static_cast<double*>(p.total) = total;
}
int64_t norm_workspace(const int64_t*, int threads) { return threads * 64; }

// control = (go, factor, norm, 0, 0): whether updates may happen, what gradients are multiplied by before, their norm
// together, and what updates account in. `hyper` (float32): 0 learning rate, 1 and 2 the optimizer's own, 3 one over
// the loss scale, 4 what a micro-batch counts in its step.
HS_FIELDS(GuardOperands, Buffer, loss, square_sum, hyper, control);
HS_FIELDS(GuardFloats, float, largest_norm);
void guard(const Context& context) {
  if (context.thread != 0) return;
  const auto& p = operands_of<GuardOperands>(context);
  const double largest = static_cast<double>(floats_of<GuardFloats>(context).largest_norm);
  const double unscale = static_cast<double>(static_cast<const float*>(p.hyper)[3]);
  float* control = p.control;
  bool go = p.loss.absent() || __builtin_isfinite(*static_cast<const float*>(p.loss));
  double factor = unscale;
  if (!p.square_sum.absent()) {
    const double square = *static_cast<const double*>(p.square_sum);
    go = go && __builtin_isfinite(square);
    const double norm = __builtin_sqrt(square) * unscale;
    if (largest > 0.0 && norm > largest) factor *= largest / (norm + 1e-6);
    control[2] = static_cast<float>(norm);
  } else {
    control[2] = 0.0f;
  }
  control[0] = go ? 1.0f : 0.0f;
  control[1] = static_cast<float>(factor);
  control[3] = control[4] = 0.0f;
}

}  // namespace

void add_train_loss(KernelTable& table) {
  add_kernel(table, {"softmax_cross_entropy", LossOperands::names, Rows::names, Smoothing::names, softmax_cross_entropy,
                     loss_workspace, nullptr, nullptr});
  add_kernel(table, {"softmax_cross_entropy_gradient", GradientOperands::names, Rows::names, Smoothing::names,
                     softmax_cross_entropy_gradient, nullptr, nullptr, nullptr});
  add_kernel(table, {"add_square_sum", NormOperands::names, Count::names, "", add_square_sum, norm_workspace, nullptr,
                     nullptr});
  add_kernel(table, {"guard", GuardOperands::names, "", GuardFloats::names, guard, nullptr, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
