// Batch norm in training, taken apart: sums over a tensor, coefficients from sums, the normalisation itself, and the
// same three steps backward. The convolutions of training compute the first and the last of them on the way.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Alphas, float, alpha, beta);

constexpr int64_t kBlock = 64;  // rows whose sums are added in float32 before they go into the double

HS_FIELDS(SumsOperands, Buffer, x, sums, workspace);
HS_FIELDS(SumsInts, int64_t, rows, channels, half, x_row);

int64_t sums_workspace(const int64_t* ints, int threads) {
  return threads * round_up(2 * reinterpret_cast<const SumsInts*>(ints)->channels, 8) * 8;
}

template <class S>
void channel_sums(const Context& context) {
  const auto& d = ints_of<SumsInts>(context);
  const auto& p = operands_of<SumsOperands>(context);
  const typename S::Value* x = p.x;
  const int64_t stride = round_up(2 * d.channels, 8), row = row_of(d.x_row, d.channels);
  double* mine = static_cast<double*>(p.workspace) + context.thread * stride;
  for (int64_t i = 0; i < 2 * d.channels; ++i) mine[i] = 0.0;
  const Range rows = share(d.rows, 1, context.thread, context.threads);
  for (int64_t begin = rows.begin; begin < rows.end; begin += kBlock) {
    const int64_t end = min_of(rows.end, begin + kBlock);
    over_vectors(
        d.channels, HS_EACH {
          Vec sum = zero(), squares = zero();
          for (int64_t r = begin; r < end; ++r) {
            const Vec v = S::read(x + r * row + i, lanes);
            sum += v;
            squares += v * v;
          }
          add_to(mine + i, sum, lanes);
          add_to(mine + d.channels + i, squares, lanes);
        });
  }
  barrier(context);
  combine_sums(p.workspace, context.threads, 2 * d.channels, stride, p.sums, context.thread);
}
void channel_sums_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<SumsInts>(context).half, channel_sums, context);
}

// Scale, shift, mean and inverse deviation; from the batch's sums, or from running statistics where `frozen`.
HS_FIELDS(CoefficientsOperands, Buffer, sums, weight, bias, running_mean, running_variance, coefficients);
HS_FIELDS(CoefficientsInts, int64_t, channels, count, frozen);
HS_FIELDS(CoefficientsFloats, float, epsilon);

void batch_norm_coefficients(const Context& context) {
  const auto& d = ints_of<CoefficientsInts>(context);
  const auto& p = operands_of<CoefficientsOperands>(context);
  const double epsilon = static_cast<double>(floats_of<CoefficientsFloats>(context).epsilon);
  const double* sums = p.sums;
  const float *weight = p.weight, *bias = p.bias, *running_mean = p.running_mean,
              *running_variance = p.running_variance;
  float* to = p.coefficients;
  const Range mine = share(d.channels, 16, context.thread, context.threads);
  for (int64_t c = mine.begin; c < mine.end; ++c) {
    double mean, variance;
    if (d.frozen != 0) {
      mean = running_mean[c], variance = running_variance[c];
    } else {
      mean = sums[c] / static_cast<double>(d.count);
      variance = sums[d.channels + c] / static_cast<double>(d.count) - mean * mean;
      if (variance < 0.0) variance = 0.0;
    }
    const double inverse = 1.0 / __builtin_sqrt(variance + epsilon);
    const double scale = static_cast<double>(weight[c]) * inverse;
    to[c] = static_cast<float>(scale);
    to[d.channels + c] = static_cast<float>(static_cast<double>(bias[c]) - mean * scale);
    to[2 * d.channels + c] = static_cast<float>(mean);
    to[3 * d.channels + c] = static_cast<float>(inverse);
  }
}

// running = (1 - momentum) * running + momentum * batch, with the unbiased variance (as PyTorch has it), unless the
// step was found bad (`go` is 0).
HS_FIELDS(StatisticsOperands, Buffer, sums, go, running_mean, running_variance);
HS_FIELDS(StatisticsInts, int64_t, channels, count);
HS_FIELDS(StatisticsFloats, float, momentum);

void update_statistics(const Context& context) {
  const auto& d = ints_of<StatisticsInts>(context);
  const auto& p = operands_of<StatisticsOperands>(context);
  const double momentum = static_cast<double>(floats_of<StatisticsFloats>(context).momentum);
  const double* sums = p.sums;
  float *running_mean = p.running_mean, *running_variance = p.running_variance;
  if (*static_cast<const float*>(p.go) == 0.0f) return;
  const double n = static_cast<double>(d.count);
  const Range mine = share(d.channels, 16, context.thread, context.threads);
  for (int64_t c = mine.begin; c < mine.end; ++c) {
    const double mean = sums[c] / n;
    double variance = sums[d.channels + c] / n - mean * mean;
    if (variance < 0.0) variance = 0.0;
    if (d.count > 1) variance *= n / (n - 1.0);
    running_mean[c] = static_cast<float>((1.0 - momentum) * static_cast<double>(running_mean[c]) + momentum * mean);
    running_variance[c] =
        static_cast<float>((1.0 - momentum) * static_cast<double>(running_variance[c]) + momentum * variance);
  }
}

// y = activation(z * scale + shift) + residual
HS_FIELDS(NormalizeOperands, Buffer, z, coefficients, residual, y);
HS_FIELDS(NormalizeInts, int64_t, rows, channels, activation, half, y_row);

template <class S>
void normalize(const Context& context) {
  const auto& d = ints_of<NormalizeInts>(context);
  const auto& p = operands_of<NormalizeOperands>(context);
  const auto& f = floats_of<Alphas>(context);
  const typename S::Value *z = p.z, *residual = p.residual;
  const int64_t y_row = row_of(d.y_row, d.channels);
  const float* scale = p.coefficients;
  const float* shift = scale + d.channels;
  const ActivationSpec spec{static_cast<Activation>(d.activation), f.alpha, f.beta};
  const bool clips = is_clip(spec.kind);
  const Limits limits = limits_of(clips ? spec : ActivationSpec{Activation::none, 0.0f, 0.0f});
  const Vec low = broadcast(limits.low), high = broadcast(limits.high);
  const Range rows = share(d.rows, 1, context.thread, context.threads);
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t at = r * d.channels;
    typename S::Value* y = static_cast<typename S::Value*>(p.y) + r * y_row;
    over_vectors(
        d.channels, HS_EACH {
          Vec v = S::read(z + at + i, lanes) * Float32::read(scale + i, lanes) + Float32::read(shift + i, lanes);
          v = min_of(high, max_of(low, v));
          if (!clips) {
            float values[kWidth];
            store(values, v);
            activate_values(values, values, kWidth, spec);
            v = load(values);
          }
          if (residual != nullptr) v += S::read(residual + at + i, lanes);
          S::write(y + i, lanes, v);
        });
  }
}
void normalize_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<NormalizeInts>(context).half, normalize, context);
}

// g = dy * activation'(z * scale + shift), and its sums.
HS_FIELDS(GradientOperands, Buffer, dy, z, coefficients, g, sums, workspace);
HS_FIELDS(GradientInts, int64_t, rows, channels, activation, half, dy_row, z_row);

int64_t gradient_workspace(const int64_t* ints, int threads) {
  const auto& d = *reinterpret_cast<const GradientInts*>(ints);
  return threads * (round_up(2 * d.channels, 8) * 8 + round_up(kBlock * d.channels, 16) * 4);
}

template <class S>
void normalize_gradient(const Context& context) {
  const auto& d = ints_of<GradientInts>(context);
  const auto& p = operands_of<GradientOperands>(context);
  const auto& f = floats_of<Alphas>(context);
  const typename S::Value* dy = p.dy;
  const int64_t dy_row = row_of(d.dy_row, d.channels);
  const int64_t stride = round_up(2 * d.channels, 8), block_floats = round_up(kBlock * d.channels, 16);
  double* sums = static_cast<double*>(p.workspace) + context.thread * stride;
  float* block = reinterpret_cast<float*>(static_cast<double*>(p.workspace) + context.threads * stride) +
                 context.thread * block_floats;
  for (int64_t i = 0; i < 2 * d.channels; ++i) sums[i] = 0.0;
  const ActivationSpec activation{static_cast<Activation>(d.activation), f.alpha, f.beta};
  const InputGradient<S> to{
      p.g, nullptr, p.z, p.coefficients, activation, sums, d.channels, d.channels, row_of(d.z_row, d.channels)};
  const Range rows = share(d.rows, 1, context.thread, context.threads);
  for (int64_t begin = rows.begin; begin < rows.end; begin += kBlock) {
    const int64_t count = min_of(kBlock, rows.end - begin);
    const OnLoad plain{nullptr, nullptr, {Activation::none, 0.0f, 0.0f}};
    if (dy_row == d.channels) {
      load_row<S>(dy + begin * dy_row, plain, block, count * dy_row);
    } else {
      for (int64_t r = 0; r < count; ++r)
        load_row<S>(dy + (begin + r) * dy_row, plain, block + r * d.channels, d.channels);
    }
    finish_backward<S>(block, d.channels, begin, count, 0, d.channels, to);
  }
  barrier(context);
  combine_sums(p.workspace, context.threads, 2 * d.channels, stride, p.sums, context.thread);
}
void normalize_gradient_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<GradientInts>(context).half, normalize_gradient, context);
}

// a, b, c of dz = a * g + b * z + c, and the gradients of weight and bias. With frozen statistics dz = scale * g, and
// the sums, which then count for weight and bias alone, may be absent.
HS_FIELDS(GradientCoefficientsOperands, Buffer, sums, coefficients, gradient_coefficients, weight_gradient,
          bias_gradient);
HS_FIELDS(GradientCoefficientsInts, int64_t, channels, count, frozen);

void batch_norm_gradient_coefficients(const Context& context) {
  const auto& d = ints_of<GradientCoefficientsInts>(context);
  const auto& p = operands_of<GradientCoefficientsOperands>(context);
  const double* sums = p.sums;
  const float* from = p.coefficients;
  float *to = p.gradient_coefficients, *dw = p.weight_gradient, *db = p.bias_gradient;
  const Range mine = share(d.channels, 16, context.thread, context.threads);
  for (int64_t c = mine.begin; c < mine.end; ++c) {
    const double scale = from[c], mean = from[2 * d.channels + c], inverse = from[3 * d.channels + c];
    const double n = static_cast<double>(d.count), sum = sums != nullptr ? sums[c] : 0.0;
    const double product = sums != nullptr ? sums[d.channels + c] : 0.0;
    const double b = d.frozen != 0 ? 0.0 : -scale * inverse * product / n;
    to[c] = from[c];
    to[d.channels + c] = static_cast<float>(b);
    to[2 * d.channels + c] = static_cast<float>(d.frozen != 0 ? 0.0 : -scale * sum / n - b * mean);
    if (dw != nullptr) dw[c] = static_cast<float>(product);
    if (db != nullptr) db[c] = static_cast<float>(sum);
  }
}

HS_FIELDS(InputGradientOperands, Buffer, g, z, gradient_coefficients, dz);
HS_FIELDS(InputGradientInts, int64_t, rows, channels, half, z_row);

template <class S>
void normalize_input_gradient(const Context& context) {
  const auto& d = ints_of<InputGradientInts>(context);
  const auto& p = operands_of<InputGradientOperands>(context);
  const typename S::Value* g = p.g;
  const int64_t z_row = row_of(d.z_row, d.channels);
  typename S::Value* dz = p.dz;
  const float* a = p.gradient_coefficients;
  const float *b = a + d.channels, *c = b + d.channels;
  const Range rows = share(d.rows, 1, context.thread, context.threads);
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t at = r * d.channels;
    const typename S::Value* z = static_cast<const typename S::Value*>(p.z) + r * z_row;
    over_vectors(
        d.channels, HS_EACH {
          const Vec v = S::read(g + at + i, lanes) * Float32::read(a + i, lanes) +
                        (S::read(z + i, lanes) * Float32::read(b + i, lanes) + Float32::read(c + i, lanes));
          S::write(dz + at + i, lanes, v);
        });
  }
}
void normalize_input_gradient_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<InputGradientInts>(context).half, normalize_input_gradient, context);
}

}  // namespace

void add_train_norm(KernelTable& table) {
  add_kernel(table, {"channel_sums", SumsOperands::names, SumsInts::names, "", channel_sums_kernel, sums_workspace,
                     nullptr, nullptr});
  add_kernel(table, {"batch_norm_coefficients", CoefficientsOperands::names, CoefficientsInts::names,
                     CoefficientsFloats::names, batch_norm_coefficients, nullptr, nullptr, nullptr});
  add_kernel(table, {"update_statistics", StatisticsOperands::names, StatisticsInts::names, StatisticsFloats::names,
                     update_statistics, nullptr, nullptr, nullptr});
  add_kernel(table, {"normalize", NormalizeOperands::names, NormalizeInts::names, Alphas::names, normalize_kernel,
                     nullptr, nullptr, nullptr});
  add_kernel(table, {"normalize_gradient", GradientOperands::names, GradientInts::names, Alphas::names,
                     normalize_gradient_kernel, gradient_workspace, nullptr, nullptr});
  add_kernel(table, {"batch_norm_gradient_coefficients", GradientCoefficientsOperands::names,
                     GradientCoefficientsInts::names, "", batch_norm_gradient_coefficients, nullptr, nullptr, nullptr});
  add_kernel(table, {"normalize_input_gradient", InputGradientOperands::names, InputGradientInts::names, "",
                     normalize_input_gradient_kernel, nullptr, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
