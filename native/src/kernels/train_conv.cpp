// Convolution and linear layers in training: forward with the sums that batch norm needs, and one backward kernel for
// data and weight gradients. Normalisation and activation of the input, and the batch norm part of the output's
// gradient, are computed while blocks of rows are loaded, so that only raw convolution outputs are ever stored.
// Weights lie as the optimizer keeps them, (kernel_h, kernel_w, channels / groups, out_channels); panels are packed
// into the workspace on every call.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(ForwardOperands, Buffer, x, coefficients, weights, bias, z, sums, workspace);
HS_FIELDS(ForwardInts, int64_t, batch, height, width, channels, out_height, out_width, out_channels, kernel_h, kernel_w,
          stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, groups, activation, half, x_row, z_row);
HS_FIELDS(BackwardOperands, Buffer, g, z, gradient_coefficients, x, coefficients, weights, extra, end_z,
          end_coefficients, gx, gx_sums, weight_gradient, bias_gradient, workspace);
HS_FIELDS(BackwardInts, int64_t, batch, height, width, channels, out_height, out_width, out_channels, kernel_h,
          kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, groups, activation, end_activation,
          half, wants_x, wants_weights, g_row, x_row, end_z_row, gx_row);
HS_FIELDS(ForwardFloats, float, alpha, beta);
HS_FIELDS(BackwardFloats, float, alpha, beta, end_alpha, end_beta);

constexpr int64_t kBlockBytes = 384 << 10;  // of all buffers of a thread together: they stay in the second-level cache
constexpr int64_t kMostRows = 18 * kTileRows;

template <class Ints>
bool is_product(const Ints& d) {
  return d.kernel_h == 1 && d.kernel_w == 1 && d.stride_h == 1 && d.stride_w == 1 && d.pad_top == 0 &&
         d.pad_left == 0 && d.out_height == d.height && d.out_width == d.width && d.groups == 1;
}
template <class Ints>
int64_t inner_of(const Ints& d) {
  return d.kernel_h * d.kernel_w * (d.channels / d.groups);
}
int64_t rows_that_fit(int64_t row_floats, int64_t rows) {
  const int64_t fit = min_of(kMostRows, kBlockBytes / (row_floats * 4) / kTileRows * kTileRows);
  return min_of(max_of(kTileRows, fit), round_up(max_of(rows, 1), kTileRows));
}

// Type of the elements of blocks that are multiplied: bfloat16 where activations are and the CPU multiplies pairs.
template <class S>
struct BlockOf {
  using Type = Float32;
};
#if defined(__AVX512BF16__)
template <>
struct BlockOf<BFloat16> {
  using Type = BFloat16;
};
#endif
template <class S>
using Block = typename BlockOf<S>::Type;

template <class To>
void clear(typename To::Value* y, int64_t n) {
  __builtin_memset(y, 0, static_cast<size_t>(n) * sizeof(typename To::Value));
}
// Inner dimensions are even where pairs are multiplied; the last is a zero then.
template <class Ints>
int64_t even(const Ints& d, int64_t n) {
  return kPairProducts && d.half == 1 ? round_up(n, 2) : n;
}

// Rows [begin, end) of the matrix whose row m holds what lies under the window of output pixel m, for one group.
template <class S, class To, class Ints>
void gather(const Ints& d, const typename S::Value* x, OnLoad load_as, int64_t group, int64_t begin, int64_t end,
            typename To::Value* to, int64_t to_row) {
  const int64_t channels = d.channels / d.groups, inner = inner_of(d), x_row = row_of(d.x_row, d.channels);
  load_as = part_of(load_as, group * channels);
  if (d.kernel_h == 1 && d.kernel_w == 1 && d.stride_h == 1 && d.stride_w == 1 && d.pad_top == 0 && d.pad_left == 0 &&
      d.out_height == d.height && d.out_width == d.width) {
    for (int64_t m = begin; m < end; ++m, to += to_row) {
      load_row<S, To>(x + m * x_row + group * channels, load_as, to, channels);
      if (to_row > inner) to[inner] = 0;
    }
    return;
  }
  const int64_t pixels = d.out_height * d.out_width;
  for (int64_t m = begin; m < end; ++m, to += to_row) {
    const int64_t image = m / pixels, top = m % pixels / d.out_width * d.stride_h - d.pad_top;
    const int64_t left = m % d.out_width * d.stride_w - d.pad_left;
    typename To::Value* y = to;
    if (to_row > inner) to[inner] = 0;
    for (int64_t i = 0; i < d.kernel_h; ++i)
      for (int64_t j = 0; j < d.kernel_w; ++j, y += channels) {
        const int64_t line = top + i * d.dilation_h, column = left + j * d.dilation_w;
        if (line < 0 || line >= d.height || column < 0 || column >= d.width) {
          clear<To>(y, channels);
        } else {
          load_row<S, To>(x + ((image * d.height + line) * d.width + column) * x_row + group * channels, load_as, y,
                          channels);
        }
      }
  }
}

// Rows [begin, end) of the matrix whose row m holds the gradients of all output pixels that read input pixel m, in the
// order of the window; zeros where a position of the window has none.
template <class S, class To>
void gather_gradient(const BackwardInts& d, const OutputGradient<S>& from, int64_t group, int64_t begin, int64_t end,
                     typename To::Value* to, int64_t to_row) {
  const int64_t outputs = d.out_channels / d.groups, padded = even(d, outputs), pixels = d.height * d.width;
  for (int64_t m = begin; m < end; ++m, to += to_row) {
    const int64_t image = m / pixels, line = m % pixels / d.width + d.pad_top, column = m % d.width + d.pad_left;
    typename To::Value* y = to;
    for (int64_t i = 0; i < d.kernel_h; ++i)
      for (int64_t j = 0; j < d.kernel_w; ++j, y += padded) {
        const int64_t oy = line - i * d.dilation_h, ox = column - j * d.dilation_w;
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

// This thread's share of the panels of one group's weights; a barrier must follow. As pairs, two values take the place
// of one float32.
void pack_weights(const float* weights, int64_t row, int64_t inner, int64_t columns, bool pairs, float* packed,
                  int thread, int threads) {
  const Range mine = share(columns, kPanel, thread, threads);
  if (mine.begin >= mine.end) return;
  const int64_t width = mine.end - mine.begin;
  if (pairs) {
    pack_pairs(weights + mine.begin, row, inner, width,
               reinterpret_cast<uint32_t*>(packed) + mine.begin * divide_up(inner, 2));
  } else {
    pack_panels(weights + mine.begin, row, 1, inner, width, packed + mine.begin * inner);
  }
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

// Memory of the workspace, in floats: shared first, then a part for each thread. All parts are multiples of 64 bytes.
struct ForwardPlan {
  int64_t inner, a_row, columns, rows, block, packed, a, c, per_thread;
  bool by_columns;
};
ForwardPlan plan_forward(const ForwardInts& d, int threads) {
  ForwardPlan p{};
  p.inner = inner_of(d);
  p.columns = d.out_channels / d.groups;
  p.rows = d.batch * d.out_height * d.out_width;
  p.block = rows_that_fit(p.inner + p.columns, p.rows);
  p.packed = d.groups * packed_floats(p.inner, p.columns);
  p.a_row = even(d, p.inner);
  p.a = round_up(p.block * p.a_row, 32);
  p.c = round_up(p.block * p.columns, 16);
  p.per_thread = p.a + p.c + round_up(4 * d.out_channels, 16);
  // Few rows: share the output channels out, and let each thread load all rows for itself.
  p.by_columns = p.rows < 4 * threads * kTileRows && p.columns >= threads * kPanel;
  return p;
}

template <class S>
void forward(const Context& context) {
  using Value = typename S::Value;
  const auto& d = ints_of<ForwardInts>(context);
  const auto& p = operands_of<ForwardOperands>(context);
  const auto& f = floats_of<ForwardFloats>(context);
  const ForwardPlan plan = plan_forward(d, context.threads);
  const Value* x = p.x;
  const float* weights = p.weights;
  const float* bias = p.bias;
  Value* z = p.z;
  float* packed = p.workspace;
  float* mine = packed + plan.packed + context.thread * plan.per_thread;
  auto* a_block = reinterpret_cast<typename Block<S>::Value*>(mine);
  float* c_block = mine + plan.a;
  double* sums = reinterpret_cast<double*>(c_block + plan.c);
  const bool counts = !p.sums.absent();
  constexpr bool pairs = !Block<S>::is_float;
  const OnLoad load_as = on_load(p.coefficients, d.channels, {static_cast<Activation>(d.activation), f.alpha, f.beta});

  for (int64_t group = 0; group < d.groups; ++group)
    pack_weights(weights + group * plan.columns, d.out_channels, plan.inner, plan.columns, pairs,
                 packed + group * packed_floats(plan.inner, plan.columns), context.thread, context.threads);
  for (int64_t i = 0; counts && i < 2 * d.out_channels; ++i) sums[i] = 0.0;
  barrier(context);

  const Range rows = plan.by_columns ? Range{0, plan.rows} : share(plan.rows, 1, context.thread, context.threads);
  const Range columns =
      plan.by_columns ? share(plan.columns, kPanel, context.thread, context.threads) : Range{0, plan.columns};
  const bool direct = S::is_float && is_product(d) && !changes(load_as);
  const int64_t x_row = row_of(d.x_row, d.channels), z_row = row_of(d.z_row, d.out_channels);
  for (int64_t begin = rows.begin; begin < rows.end; begin += plan.block) {
    const int64_t count = min_of(plan.block, rows.end - begin);
    for (int64_t group = 0; group < d.groups; ++group) {
      const int64_t first = group * plan.columns + columns.begin, width = columns.end - columns.begin;
      if (width <= 0) continue;
      double* group_sums = counts ? sums + first : nullptr;
      if (!direct) gather<S, Block<S>>(d, x, load_as, group, begin, begin + count, a_block, plan.a_row);
      if constexpr (pairs) {
        const int64_t inner_pairs = plan.a_row / 2;
        const uint32_t* b = reinterpret_cast<const uint32_t*>(packed + group * packed_floats(plan.inner, plan.columns));
        gemm_pairs(a_block, plan.a_row, inner_pairs, b + columns.begin * inner_pairs, width, count,
                   bias == nullptr ? nullptr : bias + first, c_block, plan.columns);
        finish_forward<S>(c_block, plan.columns, count, width, z + begin * z_row + first, z_row, group_sums,
                          d.out_channels);
        continue;
      }
      Gemm g{};
      g.rows = count;
      g.columns = plan.columns;
      g.inner = plan.inner;
      g.a = direct ? reinterpret_cast<const float*>(x) + begin * x_row : reinterpret_cast<const float*>(a_block);
      g.a_row = direct ? x_row : plan.inner;
      g.b = packed + group * packed_floats(plan.inner, plan.columns);
      g.b_inner = kPanel;
      g.b_panel = plan.inner * kPanel;
      g.epilogue.bias = bias == nullptr ? nullptr : bias + group * plan.columns;
      if constexpr (S::is_float) {
        g.c = reinterpret_cast<float*>(z) + begin * z_row + group * plan.columns;
        g.c_row = z_row;
        gemm(g, {0, count}, columns);
        finish_forward<S>(g.c + columns.begin, g.c_row, count, width, nullptr, 0, group_sums, d.out_channels);
      } else {
        g.c = c_block;
        g.c_row = plan.columns;
        gemm(g, {0, count}, columns);
        finish_forward<S>(c_block + columns.begin, plan.columns, count, width, z + begin * z_row + first, z_row,
                          group_sums, d.out_channels);
      }
    }
  }
  if (!counts) return;
  barrier(context);
  const double* all = reinterpret_cast<const double*>(packed + plan.packed + plan.a + plan.c);
  combine_sums(all, context.threads, 2 * d.out_channels, plan.per_thread / 2, p.sums, context.thread);
}

void forward_kernel(const Context& context) { HS_BY_STORAGE(ints_of<ForwardInts>(context).half, forward, context); }

int64_t forward_workspace(const int64_t* ints, int threads) {
  const ForwardPlan plan = plan_forward(*reinterpret_cast<const ForwardInts*>(ints), threads);
  return (plan.packed + threads * plan.per_thread) * 4;
}

struct BackwardPlan {
  int64_t inner, x_row, columns, padded, rows, x_rows, back_inner, in_columns, block, x_block;
  int64_t packed, dz, x, dx, partial, pairs, per_thread;
  bool same_rows;      // input and output pixels correspond: one walk serves both gradients
  bool split_weights;  // threads share the weight gradient out, rather than the rows
};
BackwardPlan plan_backward(const BackwardInts& d, int threads) {
  BackwardPlan p{};
  p.inner = inner_of(d);
  p.columns = d.out_channels / d.groups;
  p.padded = round_up(p.columns, kWidth);
  p.rows = d.batch * d.out_height * d.out_width;
  p.x_rows = d.batch * d.height * d.width;
  p.same_rows = is_product(d);
  p.back_inner = d.kernel_h * d.kernel_w * even(d, p.columns);
  p.x_row = even(d, p.inner);
  p.in_columns = d.channels / d.groups;
  p.split_weights = p.inner * p.columns * threads > (256 << 10) || p.rows < 64 * threads;
  p.block = rows_that_fit(p.inner + p.padded + (p.same_rows ? p.in_columns : 0), p.rows);
  p.x_block = p.same_rows ? p.block : rows_that_fit(p.back_inner + p.in_columns, p.x_rows);
  p.packed = d.wants_x != 0 ? d.groups * packed_floats(p.back_inner, p.in_columns) : 0;
  p.dz = round_up(max_of(p.block * p.padded, d.wants_x != 0 && !p.same_rows ? p.x_block * p.back_inner : 0), 32);
  p.x = d.wants_weights != 0 ? round_up(p.block * p.x_row, 32) : 0;
  const bool pairs = kPairProducts && d.half == 1 && d.wants_weights != 0;
  p.pairs = pairs ? round_up(divide_up(p.block, 2) * (p.x_row + p.padded), 16) : 0;
  p.dx = d.wants_x != 0 ? round_up(p.x_block * p.in_columns, 16) : 0;
  p.partial = d.wants_weights != 0 && !p.split_weights ? round_up(p.inner * d.out_channels, 16) : 0;
  p.per_thread =
      p.dz + p.x + p.dx + p.partial + p.pairs + round_up(4 * d.channels, 16) + round_up(2 * d.out_channels, 16);
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
  float* partial = dx_block + plan.dx;
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

  const auto data_gradient = [&](int64_t group, int64_t begin, int64_t count, int64_t a_row) {
    if constexpr (pairs) {
      const float* b = packed + group * packed_floats(plan.back_inner, plan.in_columns);
      gemm_pairs(dz, a_row, plan.back_inner / 2, reinterpret_cast<const uint32_t*>(b), plan.in_columns, count, nullptr,
                 dx_block, plan.in_columns);
      finish_backward<S>(dx_block, plan.in_columns, begin, count, group * plan.in_columns, plan.in_columns, to);
      return;
    }
    Gemm g{};
    g.rows = count;
    g.columns = plan.in_columns;
    g.inner = plan.back_inner;
    g.a = reinterpret_cast<const float*>(dz);
    g.a_row = a_row;
    g.b = packed + group * packed_floats(plan.back_inner, plan.in_columns);
    g.b_inner = kPanel;
    g.b_panel = plan.back_inner * kPanel;
    g.c = dx_block;
    g.c_row = plan.in_columns;
    gemm(g, {0, count}, {0, plan.in_columns});
    finish_backward<S>(dx_block, plan.in_columns, begin, count, group * plan.in_columns, plan.in_columns, to);
  };

  // dw (inner x columns) += x^T dz over the rows of a block.
  const auto weight_gradient = [&](const typename To::Value* a, int64_t a_row, int64_t count, int64_t b_row,
                                   int64_t columns, float* c) {
    if constexpr (pairs) {
      for (int64_t r = 0; r < count; r += 2) {
        const bool both = r + 1 < count;
        interleave(a + r * a_row, both ? a + (r + 1) * a_row : nullptr, plan.inner, x_pairs + r / 2 * plan.x_row);
        interleave(dz + r * b_row, both ? dz + (r + 1) * b_row : nullptr, b_row, dz_pairs + r / 2 * b_row);
      }
      gemm_pairs_transposed(x_pairs, plan.x_row, plan.inner, dz_pairs, b_row, columns, divide_up(count, 2), c,
                            d.out_channels);
    } else {
      gemm_transposed(a, a_row, plan.inner, dz, b_row, columns, count, c, d.out_channels);
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
        if (walk_weights) {
          gather<S, To>(d, x, load_as, group, begin, begin + count, x_block, plan.x_row);
          weight_gradient(x_block, plan.x_row, count, plan.padded, plan.columns, partial + first);
        }
        if (walk_x) data_gradient(group, begin, count, plan.padded);
      }
    }
  }
  if (d.wants_x != 0 && !plan.same_rows) {
    const Range rows = share(plan.x_rows, 1, context.thread, context.threads);
    for (int64_t begin = rows.begin; begin < rows.end; begin += plan.x_block) {
      const int64_t count = min_of(plan.x_block, rows.end - begin);
      for (int64_t group = 0; group < d.groups; ++group) {
        gather_gradient<S, To>(d, from, group, begin, begin + count, dz, plan.back_inner);
        data_gradient(group, begin, count, plan.back_inner);
      }
    }
  }
  if (d.wants_weights != 0 && plan.split_weights) {
    for (int64_t group = 0; group < d.groups; ++group) {
      const Range columns = share(plan.columns, kPanel, context.thread, context.threads);
      const int64_t width = columns.end - columns.begin, first = group * plan.columns + columns.begin;
      if (width <= 0) continue;
      for (int64_t k = 0; k < plan.inner; ++k) clear<Float32>(dw + k * d.out_channels + first, width);
      const int64_t padded = round_up(width, kWidth);
      for (int64_t begin = 0; begin < plan.rows; begin += plan.block) {
        const int64_t count = min_of(plan.block, plan.rows - begin);
        for (int64_t r = 0; r < count; ++r)
          load_gradient<S, To>(from, begin + r, first, width, padded, dz + r * padded);
        const typename To::Value* a = x_block;
        int64_t a_row = plan.x_row;
        if (S::is_float == To::is_float && plan.same_rows && !changes(load_as)) {
          a_row = row_of(d.x_row, d.channels);
          a = reinterpret_cast<const typename To::Value*>(x) + begin * a_row;
        } else {
          gather<S, To>(d, x, load_as, group, begin, begin + count, x_block, plan.x_row);
        }
        weight_gradient(a, a_row, count, padded, width, dw + first);
      }
    }
  }
  if (!counts && !wants_bias && !walk_weights) return;
  barrier(context);
  const int64_t sums_at = plan.dz + plan.x + plan.dx + plan.partial + plan.pairs;
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
    const float* all = part(0) + plan.dz + plan.x + plan.dx;
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

void add_train_conv(KernelTable& table) {
  add_kernel(table, {"train_conv", ForwardOperands::names, ForwardInts::names, ForwardFloats::names, forward_kernel,
                     forward_workspace, nullptr, nullptr});
  add_kernel(table, {"train_conv_backward", BackwardOperands::names, BackwardInts::names, BackwardFloats::names,
                     backward_kernel, backward_workspace, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
