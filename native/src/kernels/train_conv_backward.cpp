// Convolution and linear layers in training, backward: one kernel for data and weight gradients. The input's
// normalisation and activation, and the batch norm part of the output's gradient, are computed while blocks of rows are
// loaded.
#include "train_conv.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(BackwardOperands, Buffer, g, z, gradient_coefficients, x, coefficients, weights, extra, end_z,
          end_coefficients, gx, gx_sums, weight_gradient, bias_gradient, workspace);
HS_FIELDS(BackwardInts, int64_t, batch, height, width, channels, out_height, out_width, out_channels, kernel_h,
          kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, groups, activation, end_activation,
          half, wants_x, wants_weights, g_row, x_row, end_z_row, gx_row);
HS_FIELDS(BackwardFloats, float, alpha, beta, end_alpha, end_beta);

// And those over the gradient of the output, of a convolution without strides.
Window gradient_window_of(const BackwardInts& d) {
  return {d.out_height,  d.out_width,   d.height,  d.width,   d.kernel_h, d.kernel_w, 1, 1,
          -d.dilation_h, -d.dilation_w, d.pad_top, d.pad_left};
}
// Rows [begin, end) of the matrix whose row m holds the gradients of all output pixels that read input pixel m, in the
// order of the window, of some of its positions; zeros where a position has none. For strides.
template <class S, class To>
void gather_gradient(const BackwardInts& d, const OutputGradient<S>& from, int64_t group, int64_t begin, int64_t end,
                     Range positions, typename To::Value* to, int64_t to_row) {
  const int64_t outputs = d.out_channels / d.groups, padded = even(d, outputs), pixels = d.height * d.width;
  for (int64_t m = begin; m < end; ++m, to += to_row) {
    const int64_t image = m / pixels, line = m % pixels / d.width + d.pad_top, column = m % d.width + d.pad_left;
    typename To::Value* y = to;
    for (int64_t p = positions.begin; p < positions.end; ++p, y += padded) {
      const int64_t oy = line - p / d.kernel_w * d.dilation_h, ox = column - p % d.kernel_w * d.dilation_w;
      const bool reads = oy >= 0 && ox >= 0 && oy % d.stride_h == 0 && ox % d.stride_w == 0 &&
                         oy / d.stride_h < d.out_height && ox / d.stride_w < d.out_width;
      if (!reads) {
        clear<To>(y, padded);
        continue;
      }
      const int64_t pixel = (image * d.out_height + oy / d.stride_h) * d.out_width + ox / d.stride_w;
      load_gradient<S, To>(from, pixel, group * outputs, outputs, padded, y);
    }
  }
}

template <class S, class To>
auto gradient_lines(const BackwardInts& d, const OutputGradient<S>& from, typename To::Value* ring, int64_t lines) {
  const int64_t outputs = d.out_channels / d.groups, padded = even(d, outputs), groups = d.groups;
  const auto load = [=](int64_t pixel, int64_t count, typename To::Value* to) {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t group = 0; group < groups; ++group, to += padded)
        load_gradient<S, To>(from, pixel + i, group * outputs, outputs, padded, to);
  };
  return Lines<To, decltype(load)>{gradient_window_of(d), groups * padded, load, ring, lines};
}

// Panels of the transposed weights: row (position in the window, output), column = input channel.
void pack_transposed(const float* weights, int64_t positions, int64_t channels, int64_t outputs, int64_t row,
                     bool pairs, float* packed, int thread, int threads) {
  const Range mine = share(channels, kPanel, thread, threads);
  if (pairs) {
    const int64_t of_position = divide_up(outputs, 2), panel_pairs = positions * of_position;
    uint32_t* to = reinterpret_cast<uint32_t*>(packed) + mine.begin * panel_pairs;
    for (int64_t p = 0; p < positions && mine.begin < mine.end; ++p)
      pack_pairs_transposed(weights + (p * channels + mine.begin) * row, row, outputs, mine.end - mine.begin,
                            panel_pairs, to + p * of_position * kPanel);
    return;
  }
  for (int64_t n = mine.begin; n < mine.end; n += kPanel) {
    float* to = packed + n * positions * outputs;
    const int64_t width = min_of(kPanel, channels - n);
    for (int64_t p = 0; p < positions; ++p) {
      for (int64_t o = 0; o < outputs; ++o)
        for (int64_t i = 0; i < kPanel; ++i) to[o * kPanel + i] = 0.0f;
      for (int64_t i = 0; i < width; ++i) {
        const float* from = weights + (p * channels + n + i) * row;
        for (int64_t o = 0; o < outputs; ++o) to[o * kPanel + i] = from[o];
      }
      to += outputs * kPanel;
    }
  }
}

struct BackwardPlan {
  int64_t inner, positions, at_once, x_at_once, x_row, dz_row, columns, padded, rows, x_rows, back_inner, in_columns;
  int64_t block, x_block, lines, x_lines, packed, dz, x, dx, ring, partial, pairs, per_thread;
  bool same_rows;      // input and output pixels correspond: one walk serves both gradients
  bool split_weights;  // threads share the weight gradient out, rather than the rows
  bool by_lines;       // the data gradient reads the output's through windows
};
BackwardPlan plan_backward(const BackwardInts& d, int threads) {
  BackwardPlan p{};
  p.inner = inner_of(d);
  p.positions = d.kernel_h * d.kernel_w;
  p.columns = d.out_channels / d.groups;
  p.rows = d.batch * d.out_height * d.out_width;
  p.x_rows = d.batch * d.height * d.width;
  p.same_rows = is_product(d);
  p.by_lines = has_window(d) && d.stride_h == 1 && d.stride_w == 1;
  p.back_inner = p.positions * even(d, p.columns);
  p.in_columns = d.channels / d.groups;
  p.at_once = positions_at_once(p.positions, p.in_columns);
  p.x_at_once = positions_at_once(p.positions, even(d, p.columns));
  const int64_t inner = p.at_once * p.in_columns, back_inner = p.x_at_once * even(d, p.columns);
  p.split_weights = p.inner * p.columns * threads > (256 << 10) || p.rows < 64 * threads;
  p.padded = spread(round_up(p.columns, kWidth));
  const int64_t width = p.split_weights && !p.same_rows ? divide_up(p.columns, threads) : p.columns;
  p.block = rows_that_fit(inner + width + (p.same_rows ? p.in_columns : 0), p.rows);
  p.x_block = p.same_rows ? p.block : rows_that_fit(back_inner + p.in_columns, p.x_rows);
  p.x_row = spread(even(d, inner));
  p.dz_row = spread(back_inner);
  p.packed = d.wants_x != 0 ? d.groups * packed_floats(p.back_inner, p.in_columns) : 0;
  p.dz = round_up(max_of(p.block * p.padded, d.wants_x != 0 && !p.same_rows ? p.x_block * p.dz_row : 0), 32);
  p.x = d.wants_weights != 0 ? round_up(p.block * p.x_row, 32) : 0;
  const bool pairs = kPairProducts && d.half == 1 && d.wants_weights != 0;
  p.pairs = pairs ? round_up(divide_up(p.block, 2) * (p.x_row + p.padded), 16) : 0;
  p.dx = d.wants_x != 0 ? round_up(p.x_block * p.in_columns, 16) : 0;
  p.partial = d.wants_weights != 0 && !p.split_weights ? round_up(p.inner * d.out_channels, 16) : 0;
  const Window w = window_of(d), back = gradient_window_of(d);
  if (d.wants_weights != 0 && has_window(d))
    p.lines = ring_lines(w, p.block, p.at_once == p.positions && d.groups == 1);
  if (d.wants_x != 0 && p.by_lines)
    p.x_lines = ring_lines(back, p.x_block, p.x_at_once == p.positions && d.groups == 1);
  p.ring = round_up(
      max_of(p.lines * line_pixels(w) * d.channels, p.x_lines * line_pixels(back) * d.groups * even(d, p.columns)), 32);
  p.per_thread = p.dz + p.x + p.dx + p.ring + p.partial + p.pairs + round_up(4 * d.channels, 16) +
                 round_up(2 * d.out_channels, 16);
  return p;
}

template <class S>
void backward(const Context& context) {
  using Value = typename S::Value;
  const auto& d = ints_of<BackwardInts>(context);
  const auto& p = operands_of<BackwardOperands>(context);
  const auto& f = floats_of<BackwardFloats>(context);
  const BackwardPlan plan = plan_backward(d, context.threads);
  const Value* x = p.x;
  const float* weights = p.weights;
  float* dw = p.weight_gradient;
  float* packed = p.workspace;
  const auto part = [&](int thread) { return packed + plan.packed + thread * plan.per_thread; };
  using To = Block<S>;
  constexpr bool pairs = !To::is_float;
  float* mine = part(context.thread);
  auto* dz = reinterpret_cast<typename To::Value*>(mine);
  auto* x_block = reinterpret_cast<typename To::Value*>(mine + plan.dz);
  float* dx_block = mine + plan.dz + plan.x;
  auto* ring = reinterpret_cast<typename To::Value*>(dx_block + plan.dx);
  float* partial = dx_block + plan.dx + plan.ring;
  auto* x_pairs = reinterpret_cast<uint32_t*>(partial + plan.partial);
  uint32_t* dz_pairs = x_pairs + divide_up(plan.block, 2) * plan.x_row;
  double* sums = reinterpret_cast<double*>(partial + plan.partial + plan.pairs);
  double* bias_sums = sums + round_up(2 * d.channels, 8);
  const bool counts = !p.gx_sums.absent(), wants_bias = !p.bias_gradient.absent();
  const OutputGradient<S> from{p.g, p.z, p.gradient_coefficients, d.out_channels, row_of(d.g_row, d.out_channels)};
  const OnLoad load_as = on_load(p.coefficients, d.channels, {static_cast<Activation>(d.activation), f.alpha, f.beta});
  const InputGradient<S> to{p.gx,
                            p.extra,
                            p.end_z,
                            p.end_coefficients,
                            {static_cast<Activation>(d.end_activation), f.end_alpha, f.end_beta},
                            counts ? sums : nullptr,
                            d.channels,
                            row_of(d.gx_row, d.channels),
                            row_of(d.end_z_row, d.channels)};

  if (d.wants_x != 0)
    for (int64_t group = 0; group < d.groups; ++group)
      pack_transposed(weights + group * plan.columns, d.kernel_h * d.kernel_w, plan.in_columns, plan.columns,
                      d.out_channels, pairs, packed + group * packed_floats(plan.back_inner, plan.in_columns),
                      context.thread, context.threads);
  for (int64_t i = 0; counts && i < 2 * d.channels; ++i) sums[i] = 0.0;
  for (int64_t i = 0; wants_bias && i < d.out_channels; ++i) bias_sums[i] = 0.0;
  if (plan.partial > 0) clear<Float32>(partial, plan.inner * d.out_channels);
  barrier(context);

  // dx = dz (of some positions) times the transposed weights; the last positions end it.
  const auto data_gradient = [&](int64_t group, int64_t begin, int64_t count, int64_t a_row, Range positions) {
    const int64_t outputs = even(d, plan.columns), inner = (positions.end - positions.begin) * outputs;
    const float* b = packed + group * packed_floats(plan.back_inner, plan.in_columns);
    if constexpr (pairs) {
      gemm_pairs(dz, a_row, inner / 2, reinterpret_cast<const uint32_t*>(b) + positions.begin * outputs / 2 * kPanel,
                 plan.back_inner / 2, plan.in_columns, count, nullptr, positions.begin > 0, dx_block, plan.in_columns);
    } else {
      Gemm g{};
      g.rows = count;
      g.columns = plan.in_columns;
      g.inner = inner;
      g.a = reinterpret_cast<const float*>(dz);
      g.a_row = a_row;
      g.b = b + positions.begin * outputs * kPanel;
      g.b_inner = kPanel;
      g.b_panel = plan.back_inner * kPanel;
      g.c = dx_block;
      g.c_row = plan.in_columns;
      g.accumulate = positions.begin > 0;
      gemm(g, {0, count}, {0, plan.in_columns});
    }
    if (positions.end == plan.positions)
      finish_backward<S>(dx_block, plan.in_columns, begin, count, group * plan.in_columns, plan.in_columns, to);
  };

  // c (inner x columns) += x^T dz over the rows of a block, some positions of the window at a time.
  auto lines = input_lines<S, To>(d, x, load_as, ring, plan.lines);
  const auto weight_gradient = [&](int64_t group, int64_t begin, int64_t count, int64_t b_row, int64_t columns,
                                   float* c) {
    if constexpr (pairs)
      for (int64_t r = 0; r < count; r += 2)
        interleave(dz + r * b_row, r + 1 < count ? dz + (r + 1) * b_row : nullptr, b_row, dz_pairs + r / 2 * b_row);
    for (int64_t at = 0; at < plan.positions; at += plan.at_once) {
      const Range positions{at, min_of(plan.positions, at + plan.at_once)};
      const int64_t inner = (positions.end - at) * plan.in_columns;
      const typename To::Value* a = x_block;
      int64_t a_row = plan.x_row;
      if (has_window(d)) {
        lines.gather(begin, begin + count, positions, group * plan.in_columns, plan.in_columns, x_block, a_row);
      } else if (S::is_float == To::is_float && plan.same_rows && !changes(load_as)) {
        a_row = row_of(d.x_row, d.channels);
        a = reinterpret_cast<const typename To::Value*>(x) + begin * a_row;
      } else {
        gather_pixels<S, To>(d, x, load_as, group, begin, begin + count, x_block, a_row);
      }
      float* to = c + at * plan.in_columns * d.out_channels;
      if constexpr (pairs) {
        for (int64_t r = 0; r < count; r += 2)
          interleave(a + r * a_row, r + 1 < count ? a + (r + 1) * a_row : nullptr, inner, x_pairs + r / 2 * plan.x_row);
        gemm_transposed(x_pairs, plan.x_row, inner, dz_pairs, b_row, columns, divide_up(count, 2), to, d.out_channels);
      } else {
        gemm_transposed(a, a_row, inner, dz, b_row, columns, count, to, d.out_channels);
      }
    }
  };

  // One walk over output pixels: data gradient where pixels correspond, weight gradient where rows are shared out.
  const bool walk_x = d.wants_x != 0 && plan.same_rows;
  const bool walk_weights = d.wants_weights != 0 && !plan.split_weights;
  if (walk_x || walk_weights || wants_bias) {
    const Range rows = share(plan.rows, 1, context.thread, context.threads);
    for (int64_t begin = rows.begin; begin < rows.end; begin += plan.block) {
      const int64_t count = min_of(plan.block, rows.end - begin);
      for (int64_t group = 0; group < d.groups; ++group) {
        const int64_t first = group * plan.columns;
        for (int64_t r = 0; r < count; ++r)
          load_gradient<S, To>(from, begin + r, first, plan.columns, plan.padded, dz + r * plan.padded);
        if (wants_bias) {
          over_vectors(
              plan.columns, HS_EACH {
                Vec sum = zero();
                for (int64_t r = 0; r < count; ++r) sum += To::read(dz + r * plan.padded + i, lanes);
                add_to(bias_sums + first + i, sum, lanes);
              });
        }
        if (walk_weights) weight_gradient(group, begin, count, plan.padded, plan.columns, partial + first);
        if (walk_x) data_gradient(group, begin, count, plan.padded, {0, plan.positions});
      }
    }
  }
  if (d.wants_x != 0 && !plan.same_rows) {
    const Range rows = share(plan.x_rows, 1, context.thread, context.threads);
    const int64_t outputs = even(d, plan.columns);
    auto over_gradient = gradient_lines<S, To>(d, from, ring, plan.x_lines);
    for (int64_t begin = rows.begin; begin < rows.end; begin += plan.x_block) {
      const int64_t count = min_of(plan.x_block, rows.end - begin);
      for (int64_t group = 0; group < d.groups; ++group)
        for (int64_t at = 0; at < plan.positions; at += plan.x_at_once) {
          const Range positions{at, min_of(plan.positions, at + plan.x_at_once)};
          if (plan.by_lines) {
            over_gradient.gather(begin, begin + count, positions, group * outputs, outputs, dz, plan.dz_row);
          } else {
            gather_gradient<S, To>(d, from, group, begin, begin + count, positions, dz, plan.dz_row);
          }
          data_gradient(group, begin, count, plan.dz_row, positions);
        }
    }
  }
  if (d.wants_weights != 0 && plan.split_weights) {
    for (int64_t group = 0; group < d.groups; ++group) {
      const Range columns = share(plan.columns, kPanel, context.thread, context.threads);
      const int64_t width = columns.end - columns.begin, first = group * plan.columns + columns.begin;
      if (width <= 0) continue;
      for (int64_t k = 0; k < plan.inner; ++k) clear<Float32>(dw + k * d.out_channels + first, width);
      const int64_t padded = spread(round_up(width, kWidth));
      lines.filled = 0;
      for (int64_t begin = 0; begin < plan.rows; begin += plan.block) {
        const int64_t count = min_of(plan.block, plan.rows - begin);
        for (int64_t r = 0; r < count; ++r)
          load_gradient<S, To>(from, begin + r, first, width, padded, dz + r * padded);
        weight_gradient(group, begin, count, padded, width, dw + first);
      }
    }
  }
  if (!counts && !wants_bias && !walk_weights) return;
  barrier(context);
  const int64_t sums_at = plan.dz + plan.x + plan.dx + plan.ring + plan.partial + plan.pairs;
  if (counts)
    combine_sums(reinterpret_cast<const double*>(part(0) + sums_at), context.threads, 2 * d.channels,
                 plan.per_thread / 2, p.gx_sums, context.thread);
  if (wants_bias) {
    const double* all = reinterpret_cast<const double*>(part(0) + sums_at) + round_up(2 * d.channels, 8);
    float* bias = p.bias_gradient;
    const Range mine = share(d.out_channels, 8, context.thread, context.threads);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      double sum = 0.0;
      for (int t = 0; t < context.threads; ++t) sum += all[t * plan.per_thread / 2 + i];
      bias[i] = static_cast<float>(sum);
    }
  }
  if (walk_weights) {
    const Range mine = share(plan.inner * d.out_channels, 64, context.thread, context.threads);
    const float* all = part(0) + plan.dz + plan.x + plan.dx + plan.ring;
    over_vectors(
        mine.end - mine.begin, HS_EACH {
          Vec sum = zero();
          for (int t = 0; t < context.threads; ++t)
            sum += Float32::read(all + t * plan.per_thread + mine.begin + i, lanes);
          Float32::write(dw + mine.begin + i, lanes, sum);
        });
  }
}

void backward_kernel(const Context& context) { HS_BY_STORAGE(ints_of<BackwardInts>(context).half, backward, context); }

int64_t backward_workspace(const int64_t* ints, int threads) {
  const BackwardPlan plan = plan_backward(*reinterpret_cast<const BackwardInts*>(ints), threads);
  return (plan.packed + threads * plan.per_thread) * 4;
}

}  // namespace

void add_train_conv_backward(KernelTable& table) {
  add_kernel(table, {"train_conv_backward", BackwardOperands::names, BackwardInts::names, BackwardFloats::names,
                     backward_kernel, backward_workspace, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
