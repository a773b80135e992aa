// Depthwise convolution in training. Work is dealt out by images (or bands of lines where there are few images); a ring
// of lines, normalised and activated as they are loaded, stays in the cache, so each stored tensor is read once.
// The backward kernel walks over input lines: each needs the gradients of the output lines that read it, for the data
// gradient and for the weight gradient alike, and strides cost no more than they save.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(ForwardOperands, Buffer, x, coefficients, weights, bias, z, sums, workspace);
HS_FIELDS(ForwardInts, int64_t, batch, height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h,
          stride_w, dilation_h, dilation_w, pad_top, pad_left, activation, half);
HS_FIELDS(BackwardOperands, Buffer, g, z, gradient_coefficients, x, coefficients, weights, extra, end_z,
          end_coefficients, gx, gx_sums, weight_gradient, bias_gradient, workspace);
HS_FIELDS(BackwardInts, int64_t, batch, height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h,
          stride_w, dilation_h, dilation_w, pad_top, pad_left, activation, end_activation, half, wants_x,
          wants_weights);
HS_FIELDS(ForwardFloats, float, alpha, beta);
HS_FIELDS(BackwardFloats, float, alpha, beta, end_alpha, end_beta);

void clear(float* y, int64_t n) {
  over_vectors(n, HS_EACH { Float32::write(y + i, lanes, zero()); });
}

int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -divide_up(-a, b); }

// Bands of lines that images are cut into, so that every thread has work.
int64_t bands_of(int64_t batch, int threads) { return batch % threads == 0 || batch >= 8 * threads ? 1 : threads; }

struct ForwardPlan {
  int64_t ring, line, row, per_thread;  // lines in the ring; floats of one, with its padding; of an output line
};
ForwardPlan plan_forward(const ForwardInts& d) {
  ForwardPlan p{};
  p.ring = (d.kernel_h - 1) * d.dilation_h + 1;
  const int64_t reach = (d.out_width - 1) * d.stride_w + (d.kernel_w - 1) * d.dilation_w + 1;
  p.line = round_up(max_of(d.pad_left + d.width, reach) * d.channels, 16);
  p.row = round_up(d.out_width * d.channels, 16);
  p.per_thread = (p.ring + 1) * p.line + p.row + round_up(4 * d.channels, 16);  // one line of zeros beside the ring
  return p;
}

// One output line: all taps of one vector of channels after another. A template for the windows that matter.
template <int kHeight, int kWidthOfWindow, int kStride>
void convolve_line(const float* const* lines, const float* weights, const float* bias, float* y, int64_t out_width,
                   int64_t channels) {
  over_vectors(
      channels, HS_EACH {
        Vec w[kHeight * kWidthOfWindow];
#pragma GCC unroll 32
        for (int t = 0; t < kHeight * kWidthOfWindow; ++t) w[t] = Float32::read(weights + t * channels + i, lanes);
        const Vec start = bias == nullptr ? zero() : Float32::read(bias + i, lanes);
        for (int64_t ox = 0; ox < out_width; ++ox) {
          Vec sum = start;
#pragma GCC unroll 8
          for (int ky = 0; ky < kHeight; ++ky) {
            const float* from = lines[ky] + ox * kStride * channels + i;
#pragma GCC unroll 8
            for (int kx = 0; kx < kWidthOfWindow; ++kx)
              sum += Float32::read(from + kx * channels, lanes) * w[ky * kWidthOfWindow + kx];
          }
          Float32::write(y + ox * channels + i, lanes, sum);
        }
      });
}

void convolve_line_of_any(const ForwardInts& d, const float* const* lines, const float* weights, const float* bias,
                          float* y) {
  for (int64_t ox = 0; ox < d.out_width; ++ox)
    over_vectors(
        d.channels, HS_EACH {
          Vec sum = bias == nullptr ? zero() : Float32::read(bias + i, lanes);
          for (int64_t ky = 0; ky < d.kernel_h; ++ky)
            for (int64_t kx = 0; kx < d.kernel_w; ++kx)
              sum += Float32::read(lines[ky] + (ox * d.stride_w + kx * d.dilation_w) * d.channels + i, lanes) *
                     Float32::read(weights + (ky * d.kernel_w + kx) * d.channels + i, lanes);
          Float32::write(y + ox * d.channels + i, lanes, sum);
        });
}

constexpr int64_t kTallest = 16;  // windows are at most so high; checked when a program is compiled

template <class S>
void forward(const Context& context) {
  using Value = typename S::Value;
  const auto& d = ints_of<ForwardInts>(context);
  const auto& p = operands_of<ForwardOperands>(context);
  const auto& f = floats_of<ForwardFloats>(context);
  const ForwardPlan plan = plan_forward(d);
  const Value* x = p.x;
  Value* z = p.z;
  float* ring = static_cast<float*>(p.workspace) + context.thread * plan.per_thread;
  float* zeros = ring + plan.ring * plan.line;
  float* row = zeros + plan.line;
  double* sums = reinterpret_cast<double*>(row + plan.row);
  const bool counts = !p.sums.absent();
  const OnLoad load_as = on_load(p.coefficients, d.channels, {static_cast<Activation>(d.activation), f.alpha, f.beta});
  for (int64_t i = 0; counts && i < 2 * d.channels; ++i) sums[i] = 0.0;
  clear(ring, (plan.ring + 1) * plan.line);

  const bool three = d.kernel_h == 3 && d.kernel_w == 3, five = d.kernel_h == 5 && d.kernel_w == 5;
  const bool simple = d.dilation_w == 1 && (d.stride_w == 1 || d.stride_w == 2);
  const int64_t bands = bands_of(d.batch, context.threads);
  const Range items = share(d.batch * bands, 1, context.thread, context.threads);
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t image = item / bands;
    const Range band = share(d.out_height, 1, static_cast<int>(item % bands), static_cast<int>(bands));
    int64_t loaded = max_of(0, band.begin * d.stride_h - d.pad_top);  // the next input line to come into the ring
    for (int64_t oy = band.begin; oy < band.end; ++oy) {
      const int64_t top = oy * d.stride_h - d.pad_top;
      const int64_t last = min_of(d.height - 1, top + (d.kernel_h - 1) * d.dilation_h);
      loaded = max_of(loaded, top);
      for (; loaded <= last; ++loaded) {
        const Value* from = x + (image * d.height + loaded) * d.width * d.channels;
        float* to = ring + loaded % plan.ring * plan.line + d.pad_left * d.channels;
        for (int64_t ix = 0; ix < d.width; ++ix)
          load_row<S>(from + ix * d.channels, load_as, to + ix * d.channels, d.channels);
      }
      const float* lines[kTallest];
      for (int64_t ky = 0; ky < d.kernel_h; ++ky) {
        const int64_t iy = top + ky * d.dilation_h;
        lines[ky] = iy < 0 || iy >= d.height ? zeros : ring + iy % plan.ring * plan.line;
      }
      Value* out = z + (image * d.out_height + oy) * d.out_width * d.channels;
      float* y = S::is_float ? reinterpret_cast<float*>(out) : row;
      if (three && simple && d.stride_w == 1)
        convolve_line<3, 3, 1>(lines, p.weights, p.bias, y, d.out_width, d.channels);
      else if (three && simple)
        convolve_line<3, 3, 2>(lines, p.weights, p.bias, y, d.out_width, d.channels);
      else if (five && simple && d.stride_w == 1)
        convolve_line<5, 5, 1>(lines, p.weights, p.bias, y, d.out_width, d.channels);
      else if (five && simple)
        convolve_line<5, 5, 2>(lines, p.weights, p.bias, y, d.out_width, d.channels);
      else
        convolve_line_of_any(d, lines, p.weights, p.bias, y);
      finish_forward<S>(y, d.channels, d.out_width, d.channels, S::is_float ? nullptr : out, d.channels,
                        counts ? sums : nullptr, d.channels);
    }
  }
  if (!counts) return;
  barrier(context);
  const float* first = static_cast<const float*>(p.workspace) + (plan.ring + 1) * plan.line + plan.row;
  combine_sums(reinterpret_cast<const double*>(first), context.threads, 2 * d.channels, plan.per_thread / 2, p.sums,
               context.thread);
}

void forward_kernel(const Context& context) { HS_BY_STORAGE(ints_of<ForwardInts>(context).half, forward, context); }

int64_t forward_workspace(const int64_t* ints, int threads) {
  return threads * plan_forward(*reinterpret_cast<const ForwardInts*>(ints)).per_thread * 4;
}

struct BackwardPlan {
  int64_t ring, left, line, x_line, row, partial, per_thread;
};
BackwardPlan plan_backward(const BackwardInts& d) {
  BackwardPlan p{};
  // Output lines that read one input line, and those between them.
  p.ring = ((d.kernel_h - 1) * d.dilation_h) / d.stride_h + 1;
  p.left = ((d.kernel_w - 1) * d.dilation_w) / d.stride_w + 1;  // pixels of zeros before and behind a line of gradients
  const int64_t furthest = max_of(d.out_width - 1, (d.width - 1 + d.pad_left) / d.stride_w);
  p.line = round_up((p.left + furthest + 1) * d.channels, 16);
  const int64_t reach = (d.out_width - 1) * d.stride_w + (d.kernel_w - 1) * d.dilation_w + 1;
  p.x_line = d.wants_weights != 0 ? round_up(max_of(d.pad_left + d.width, reach) * d.channels, 16) : 0;
  p.row = d.wants_x != 0 ? round_up(d.width * d.channels, 16) : 0;
  p.partial = round_up((d.kernel_h * d.kernel_w + 1) * d.channels, 16);
  p.per_thread = p.ring * p.line + p.x_line + p.row + p.partial + round_up(4 * d.channels, 16);
  return p;
}

// Taps of the window's row that meet input column ix: kx = first, first + step, ... ; the output column falls by one
// each.
template <int kTaps, int kStride>
void spread_line(const float* const* lines, const float* const* weights, int64_t count, int64_t pad_left, int64_t width,
                 int64_t channels, float* dx) {
  over_vectors(
      channels, HS_EACH {
        Vec w[3 * kTaps];
        const bool in_registers = count * kTaps <= 3 * kTaps && kTaps <= 3;
        if (in_registers)
          for (int64_t k = 0; k < count; ++k)
#pragma GCC unroll 8
            for (int kx = 0; kx < kTaps; ++kx) w[k * kTaps + kx] = Float32::read(weights[k] + kx * channels + i, lanes);
        for (int64_t start = 0; start < kStride; ++start) {
          // Input columns of one phase: (ix + pad) % stride == start; their taps are start, start + stride, ...
          const int64_t first = ((start - pad_left) % kStride + kStride) % kStride;
          for (int64_t ix = first; ix < width; ix += kStride) {
            const int64_t ox = (ix + pad_left) / kStride;
            Vec sum = zero();
            for (int64_t k = 0; k < count; ++k) {
              const float* from = lines[k] + ox * channels + i;
#pragma GCC unroll 8
              for (int kx = 0; kx < kTaps; ++kx)
                if (kStride == 1 || kx % kStride == start)
                  sum += Float32::read(from - kx / kStride * channels, lanes) *
                         (in_registers ? w[k * kTaps + kx] : Float32::read(weights[k] + kx * channels + i, lanes));
            }
            Float32::write(dx + ix * channels + i, lanes, sum);
          }
        }
      });
}

void spread_line_of_any(const BackwardInts& d, const float* const* lines, const float* const* weights, int64_t count,
                        float* dx) {
  for (int64_t ix = 0; ix < d.width; ++ix)
    over_vectors(
        d.channels, HS_EACH {
          Vec sum = zero();
          for (int64_t k = 0; k < count; ++k)
            for (int64_t kx = 0; kx < d.kernel_w; ++kx) {
              const int64_t at = ix + d.pad_left - kx * d.dilation_w;
              if (at < 0 || at % d.stride_w != 0 || at / d.stride_w >= d.out_width) continue;
              sum += Float32::read(lines[k] + at / d.stride_w * d.channels + i, lanes) *
                     Float32::read(weights[k] + kx * d.channels + i, lanes);
            }
          Float32::write(dx + ix * d.channels + i, lanes, sum);
        });
}

// Gradient of one row of the window from one input line and one line of output gradients.
template <int kTaps, int kStride>
void weigh_line(const float* x, const float* dz, int64_t out_width, int64_t channels, float* dw) {
  over_vectors(
      channels, HS_EACH {
        Vec sum[kTaps];
#pragma GCC unroll 8
        for (int kx = 0; kx < kTaps; ++kx) sum[kx] = Float32::read(dw + kx * channels + i, lanes);
        for (int64_t ox = 0; ox < out_width; ++ox) {
          const Vec g = Float32::read(dz + ox * channels + i, lanes);
#pragma GCC unroll 8
          for (int kx = 0; kx < kTaps; ++kx)
            sum[kx] += Float32::read(x + (ox * kStride + kx) * channels + i, lanes) * g;
        }
#pragma GCC unroll 8
        for (int kx = 0; kx < kTaps; ++kx) Float32::write(dw + kx * channels + i, lanes, sum[kx]);
      });
}

void weigh_line_of_any(const BackwardInts& d, const float* x, const float* dz, float* dw) {
  for (int64_t kx = 0; kx < d.kernel_w; ++kx)
    over_vectors(
        d.channels, HS_EACH {
          Vec sum = Float32::read(dw + kx * d.channels + i, lanes);
          for (int64_t ox = 0; ox < d.out_width; ++ox)
            sum += Float32::read(x + (ox * d.stride_w + kx * d.dilation_w) * d.channels + i, lanes) *
                   Float32::read(dz + ox * d.channels + i, lanes);
          Float32::write(dw + kx * d.channels + i, lanes, sum);
        });
}

template <class S>
void backward(const Context& context) {
  using Value = typename S::Value;
  const auto& d = ints_of<BackwardInts>(context);
  const auto& p = operands_of<BackwardOperands>(context);
  const auto& f = floats_of<BackwardFloats>(context);
  const BackwardPlan plan = plan_backward(d);
  const Value* x = p.x;
  const float* weights = p.weights;
  const int64_t taps = d.kernel_h * d.kernel_w;
  float* ring = static_cast<float*>(p.workspace) + context.thread * plan.per_thread;
  float* x_line = ring + plan.ring * plan.line;
  float* row = x_line + plan.x_line;
  float* partial = row + plan.row;  // weight gradient, then bias gradient
  double* sums = reinterpret_cast<double*>(partial + plan.partial);
  const bool counts = !p.gx_sums.absent(), wants_bias = !p.bias_gradient.absent();
  const OutputGradient<S> from{p.g, p.z, p.gradient_coefficients, d.channels, d.channels};
  const OnLoad load_as = on_load(p.coefficients, d.channels, {static_cast<Activation>(d.activation), f.alpha, f.beta});
  const InputGradient<S> to{p.gx,
                            p.extra,
                            p.end_z,
                            p.end_coefficients,
                            {static_cast<Activation>(d.end_activation), f.end_alpha, f.end_beta},
                            counts ? sums : nullptr,
                            d.channels,
                            d.channels,
                            d.channels};
  for (int64_t i = 0; counts && i < 2 * d.channels; ++i) sums[i] = 0.0;
  clear(ring, plan.ring * plan.line + plan.x_line);
  clear(partial, (taps + 1) * d.channels);

  const bool simple = d.dilation_w == 1 && (d.stride_w == 1 || d.stride_w == 2) && (d.kernel_w == 3 || d.kernel_w == 5);
  const int64_t bands = bands_of(d.batch, context.threads);
  const Range items = share(d.batch * bands, 1, context.thread, context.threads);
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t image = item / bands;
    const Range band = share(d.height, 1, static_cast<int>(item % bands), static_cast<int>(bands));
    // The first output line that reads this band's first line.
    int64_t loaded =
        max_of(0, floor_divide(band.begin + d.pad_top - (d.kernel_h - 1) * d.dilation_h + d.stride_h - 1, d.stride_h));
    for (int64_t iy = band.begin; iy < band.end; ++iy) {
      const int64_t needed = min_of(d.out_height - 1, (iy + d.pad_top) / d.stride_h);
      for (; loaded <= needed; ++loaded) {
        float* line = ring + loaded % plan.ring * plan.line + plan.left * d.channels;
        const int64_t at = (image * d.out_height + loaded) * d.out_width;
        for (int64_t ox = 0; ox < d.out_width; ++ox)
          load_gradient(from, at + ox, 0, d.channels, d.channels, line + ox * d.channels);
        // The bias counts every output line once: the band that owns the line above it does so.
        const int64_t owner = min_of(d.height - 1, max_of(0, loaded * d.stride_h - d.pad_top));
        if (wants_bias && owner >= band.begin && owner < band.end)
          over_vectors(
              d.channels, HS_EACH {
                Vec sum = Float32::read(partial + taps * d.channels + i, lanes);
                for (int64_t ox = 0; ox < d.out_width; ++ox) sum += Float32::read(line + ox * d.channels + i, lanes);
                Float32::write(partial + taps * d.channels + i, lanes, sum);
              });
      }
      const float* lines[kTallest];
      const float* rows[kTallest];
      int64_t window_rows[kTallest];
      int64_t count = 0;
      for (int64_t ky = 0; ky < d.kernel_h; ++ky) {
        const int64_t at = iy + d.pad_top - ky * d.dilation_h;
        if (at < 0 || at % d.stride_h != 0 || at / d.stride_h >= d.out_height) continue;
        lines[count] = ring + at / d.stride_h % plan.ring * plan.line + plan.left * d.channels;
        rows[count] = weights + ky * d.kernel_w * d.channels;
        window_rows[count++] = ky;
      }
      if (d.wants_weights != 0 && count > 0) {
        const Value* source = x + (image * d.height + iy) * d.width * d.channels;
        float* y = x_line + d.pad_left * d.channels;
        for (int64_t ix = 0; ix < d.width; ++ix)
          load_row<S>(source + ix * d.channels, load_as, y + ix * d.channels, d.channels);
        for (int64_t k = 0; k < count; ++k) {
          float* dw = partial + window_rows[k] * d.kernel_w * d.channels;
          if (simple && d.kernel_w == 3 && d.stride_w == 1)
            weigh_line<3, 1>(x_line, lines[k], d.out_width, d.channels, dw);
          else if (simple && d.kernel_w == 3)
            weigh_line<3, 2>(x_line, lines[k], d.out_width, d.channels, dw);
          else if (simple && d.stride_w == 1)
            weigh_line<5, 1>(x_line, lines[k], d.out_width, d.channels, dw);
          else if (simple)
            weigh_line<5, 2>(x_line, lines[k], d.out_width, d.channels, dw);
          else
            weigh_line_of_any(d, x_line, lines[k], dw);
        }
      }
      if (d.wants_x == 0) continue;
      if (simple && d.kernel_w == 3 && d.stride_w == 1)
        spread_line<3, 1>(lines, rows, count, d.pad_left, d.width, d.channels, row);
      else if (simple && d.kernel_w == 3)
        spread_line<3, 2>(lines, rows, count, d.pad_left, d.width, d.channels, row);
      else if (simple && d.stride_w == 1)
        spread_line<5, 1>(lines, rows, count, d.pad_left, d.width, d.channels, row);
      else if (simple)
        spread_line<5, 2>(lines, rows, count, d.pad_left, d.width, d.channels, row);
      else
        spread_line_of_any(d, lines, rows, count, row);
      finish_backward<S>(row, d.channels, (image * d.height + iy) * d.width, d.width, 0, d.channels, to);
    }
  }
  barrier(context);
  const float* first = static_cast<const float*>(p.workspace) + plan.ring * plan.line + plan.x_line + plan.row;
  if (counts)
    combine_sums(reinterpret_cast<const double*>(first + plan.partial), context.threads, 2 * d.channels,
                 plan.per_thread / 2, p.gx_sums, context.thread);
  const auto combine = [&](int64_t offset, int64_t n, float* total) {
    const Range mine = share(n, 16, context.thread, context.threads);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      float sum = 0.0f;
      for (int t = 0; t < context.threads; ++t) sum += first[t * plan.per_thread + offset + i];
      total[i] = sum;
    }
  };
  if (d.wants_weights != 0) combine(0, taps * d.channels, p.weight_gradient);
  if (wants_bias) combine(taps * d.channels, d.channels, p.bias_gradient);
}

void backward_kernel(const Context& context) { HS_BY_STORAGE(ints_of<BackwardInts>(context).half, backward, context); }

int64_t backward_workspace(const int64_t* ints, int threads) {
  return threads * plan_backward(*reinterpret_cast<const BackwardInts*>(ints)).per_thread * 4;
}

}  // namespace

void add_train_depthwise(KernelTable& table) {
  add_kernel(table, {"train_depthwise", ForwardOperands::names, ForwardInts::names, ForwardFloats::names,
                     forward_kernel, forward_workspace, nullptr, nullptr});
  add_kernel(table, {"train_depthwise_backward", BackwardOperands::names, BackwardInts::names, BackwardFloats::names,
                     backward_kernel, backward_workspace, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
