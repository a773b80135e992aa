// 2-D convolution over NHWC pixels as a matrix multiply. 1x1 convolutions multiply the input where it lies; others
// gather the pixels under the window, a block of output pixels at a time, into this thread's part of the workspace.
// Weights: HWIO, (kernel_h, kernel_w, channels / groups, out_channels), packed per group into panels.
#include "gemm.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, input, weights, bias, residual, output, workspace);
HS_FIELDS(Ints, int64_t, batch, height, width, channels, out_height, out_width, out_channels, kernel_h, kernel_w, stride_h,
          stride_w, dilation_h, dilation_w, pad_top, pad_left, groups, activation, residual_after);
HS_FIELDS(Floats, float, alpha, beta);

constexpr int64_t kGatherBytes = 192 << 10;

bool reads_in_place(const Ints& d) {
  return d.kernel_h == 1 && d.kernel_w == 1 && d.stride_h == 1 && d.stride_w == 1 && d.pad_top == 0 && d.pad_left == 0 &&
         d.out_height == d.height && d.out_width == d.width;
}

int64_t inner_of(const Ints& d) { return d.kernel_h * d.kernel_w * (d.channels / d.groups); }

// Output pixels gathered at a time.
int64_t gather_rows(const Ints& d) {
  const int64_t fit = kGatherBytes / (inner_of(d) * 4) / kTileRows * kTileRows;
  return min_of(max_of(kTileRows, fit), round_up(d.batch * d.out_height * d.out_width, kTileRows));
}

int64_t gather_floats(const Ints& d) { return round_up(gather_rows(d) * inner_of(d), 16); }

HS_INLINE void copy_floats(const float* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(to + i, load(from + i));
  if (i < n) store_part(to + i, n - i, load_part(from + i, n - i));
}
HS_INLINE void clear_floats(float* to, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(to + i, zero());
  if (i < n) store_part(to + i, n - i, zero());
}

// Rows [begin, end) of the matrix whose row m holds what lies under the window of output pixel m, for one group.
void gather(const Ints& d, const float* input, int64_t group, int64_t begin, int64_t end, float* to) {
  const int64_t channels = d.channels / d.groups;
  const int64_t pixels = d.out_height * d.out_width;
  const bool whole_lines = d.groups == 1 && d.dilation_w == 1;  // a line of the window is contiguous
  int64_t image = begin / pixels, y = begin % pixels / d.out_width, x = begin % d.out_width;
  for (int64_t m = begin; m < end; ++m, ++x) {
    if (x == d.out_width) {
      x = 0;
      if (++y == d.out_height) y = 0, ++image;
    }
    const int64_t left = x * d.stride_w - d.pad_left;
    for (int64_t i = 0; i < d.kernel_h; ++i) {
      const int64_t line = y * d.stride_h - d.pad_top + i * d.dilation_h;
      if (line < 0 || line >= d.height) {
        clear_floats(to, d.kernel_w * channels);
        to += d.kernel_w * channels;
        continue;
      }
      const float* from = input + (image * d.height + line) * d.width * d.channels + group * channels;
      if (whole_lines && left >= 0 && left + d.kernel_w <= d.width) {
        copy_floats(from + left * channels, to, d.kernel_w * channels);
        to += d.kernel_w * channels;
        continue;
      }
      for (int64_t j = 0; j < d.kernel_w; ++j, to += channels) {
        const int64_t column = left + j * d.dilation_w;
        if (column < 0 || column >= d.width) {
          clear_floats(to, channels);
        } else {
          copy_floats(from + column * d.channels, to, channels);
        }
      }
    }
  }
}

void conv2d(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const auto& f = floats_of<Floats>(context);
  const float* input = p.input;
  const float* weights = p.weights;
  const float* bias = p.bias;
  const float* residual = p.residual;
  float* output = p.output;
  const int64_t rows = d.batch * d.out_height * d.out_width;
  const int64_t inner = inner_of(d), columns = d.out_channels / d.groups, channels = d.channels / d.groups;

  for (int64_t group = 0; group < d.groups; ++group) {
    Gemm g{};
    g.rows = rows;
    g.columns = columns;
    g.inner = inner;
    g.b = weights + group * packed_floats(inner, columns);
    g.b_inner = kPanel;
    g.b_panel = inner * kPanel;
    g.c = output + group * columns;
    g.c_row = d.out_channels;
    g.epilogue = {bias == nullptr ? nullptr : bias + group * columns,
                  residual == nullptr ? nullptr : residual + group * columns,
                  d.out_channels,
                  d.residual_after != 0,
                  {static_cast<Activation>(d.activation), f.alpha, f.beta}};
    if (reads_in_place(d)) {
      g.a = input + group * channels;
      g.a_row = d.channels;
      gemm(g, context.thread, context.threads);
      continue;
    }
    float* gathered = static_cast<float*>(p.workspace) + context.thread * gather_floats(d);
    const int64_t block = gather_rows(d);
    // Few pixels: share the output channels out instead, and let each thread gather for itself.
    const bool by_columns = rows < 4 * context.threads * kTileRows && columns >= context.threads * kPanel;
    const Range mine = by_columns ? Range{0, rows} : share(rows, kTileRows, context.thread, context.threads);
    const Range panel = by_columns ? share(columns, kPanel, context.thread, context.threads) : Range{0, columns};
    for (int64_t begin = mine.begin; begin < mine.end; begin += block) {
      const int64_t end = min_of(mine.end, begin + block);
      gather(d, input, group, begin, end, gathered);
      Gemm part = g;
      part.rows = end - begin;
      part.a = gathered;
      part.a_row = inner;
      part.c = g.c + begin * g.c_row;
      if (residual != nullptr) part.epilogue.residual = g.epilogue.residual + begin * d.out_channels;
      gemm(part, {0, end - begin}, panel);
    }
  }
}

int64_t workspace_bytes(const int64_t* ints, int threads) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  return reads_in_place(d) ? 0 : threads * gather_floats(d) * 4;
}

int64_t packed_bytes(const int64_t* ints) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  return d.groups * packed_floats(inner_of(d), d.out_channels / d.groups) * 4;
}

const char* pack(const int64_t* ints, const PackInput* inputs, int count, void* packed) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  const int64_t inner = inner_of(d), columns = d.out_channels / d.groups;
  if (count != 1 || inputs[0].type != 'f' || inputs[0].elements != inner * d.out_channels)
    return "needs one float32 array (kernel_h, kernel_w, channels / groups, out_channels)";
  for (int64_t group = 0; group < d.groups; ++group)
    pack_panels(static_cast<const float*>(inputs[0].data) + group * columns, d.out_channels, 1, inner, columns,
                static_cast<float*>(packed) + group * packed_floats(inner, columns));
  return nullptr;
}

}  // namespace

void add_conv2d(KernelTable& table) {
  add_kernel(table, {"conv2d", Operands::names, Ints::names, Floats::names, conv2d, workspace_bytes, packed_bytes, pack});
}

}  // namespace hs::HS_ISA
