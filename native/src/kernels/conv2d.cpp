// 2-D convolution over NHWC pixels as a matrix multiply, in one of three ways:
//  in place   1x1 convolutions multiply the input where it lies;
//  by lines   the lines under the window of a pixel are contiguous, and neighbouring pixels' lines lie a stride apart:
//             the multiply reads them as segments, out of the input or, at padded sides, out of a few padded lines;
//  gathered   small maps, groups and dilation: what lies under the window is copied, a block of output pixels at a
//  time.
// Weights: HWIO, (kernel_h, kernel_w, channels / groups, out_channels), packed per group into panels.
#include "gemm.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, input, weights, bias, residual, output, workspace);
HS_FIELDS(Ints, int64_t, batch, height, width, channels, out_height, out_width, out_channels, kernel_h, kernel_w,
          stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, groups, activation, residual_after,
          output_row);
HS_FIELDS(Floats, float, alpha, beta);

constexpr int64_t kGatherBytes = 192 << 10;

bool reads_in_place(const Ints& d) {
  return d.kernel_h == 1 && d.kernel_w == 1 && d.stride_h == 1 && d.stride_w == 1 && d.pad_top == 0 &&
         d.pad_left == 0 && d.out_height == d.height && d.out_width == d.width;
}

int64_t inner_of(const Ints& d) { return d.kernel_h * d.kernel_w * (d.channels / d.groups); }

// Output pixels gathered at a time.
int64_t gather_rows(const Ints& d) {
  const int64_t fit = kGatherBytes / (inner_of(d) * 4) / kTileRows * kTileRows;
  return min_of(max_of(kTileRows, fit), round_up(d.batch * d.out_height * d.out_width, kTileRows));
}

int64_t gather_floats(const Ints& d) { return round_up(gather_rows(d) * inner_of(d), 16); }

constexpr int64_t kMaxLines = 16;  // rows of the window, by lines
constexpr int64_t kLineBytes = 384 << 10;

bool hangs_over_sides(const Ints& d) {
  return d.pad_left > 0 || (d.out_width - 1) * d.stride_w + d.kernel_w > d.width + d.pad_left;
}
// Floats of an input line as wide as the windows of an output line reach.
int64_t line_floats(const Ints& d) { return ((d.out_width - 1) * d.stride_w + d.kernel_w) * d.channels; }
// Lines that an output line needs, those between dilated rows included.
int64_t ring_lines(const Ints& d) { return (d.kernel_h - 1) * d.dilation_h + 1; }
// A thread's lines: the ring, and a line of zeros for rows above and below the image.
int64_t lines_floats(const Ints& d) { return round_up((ring_lines(d) + 1) * line_floats(d), 16); }

bool goes_by_lines(const Ints& d) {
  return d.groups == 1 && d.dilation_w == 1 && d.kernel_h <= kMaxLines && d.out_width >= kTileRows &&
         lines_floats(d) * 4 <= kLineBytes && inner_of(d) <= 4096;
}

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

Gemm product_of(const Context& context, int64_t group) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const auto& f = floats_of<Floats>(context);
  const int64_t first = group * (d.out_channels / d.groups);
  Gemm g{};
  g.rows = d.batch * d.out_height * d.out_width;
  g.columns = d.out_channels / d.groups;
  g.inner = inner_of(d);
  g.b = static_cast<const float*>(p.weights) + group * packed_floats(g.inner, g.columns);
  g.b_inner = kPanel;
  g.b_panel = g.inner * kPanel;
  g.c = static_cast<float*>(p.output) + first;
  g.c_row = row_of(d.output_row, d.out_channels);
  g.epilogue = {p.bias.absent() ? nullptr : static_cast<const float*>(p.bias) + first,
                p.residual.absent() ? nullptr : static_cast<const float*>(p.residual) + first,
                d.out_channels,
                d.residual_after != 0,
                {static_cast<Activation>(d.activation), f.alpha, f.beta}};
  return g;
}

// The same product for rows [begin, end) only.
Gemm part_of(const Gemm& whole, int64_t begin, int64_t end) {
  Gemm part = whole;
  part.rows = end - begin;
  part.c += begin * whole.c_row;
  if (part.epilogue.residual != nullptr) part.epilogue.residual += begin * whole.epilogue.residual_row;
  return part;
}

void run_by_lines(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const float* input = operands_of<Operands>(context).input;
  const Gemm whole = product_of(context, 0);
  const bool padded = hangs_over_sides(d);
  const int64_t floats = line_floats(d), ring = ring_lines(d);
  float* lines = static_cast<float*>(operands_of<Operands>(context).workspace) + context.thread * lines_floats(d);
  float* zeros = lines + ring * floats;
  clear_floats(lines, (ring + 1) * floats);
  const int64_t before = d.pad_left * d.channels;
  const int64_t copied = min_of(d.width * d.channels, floats - before);
  const Range mine = share(d.batch * d.out_height, 1, context.thread, context.threads);
  int64_t image = -1, filled = 0;  // lines of this image below `filled` are in the ring, or no longer needed
  for (int64_t line = mine.begin; line < mine.end; ++line) {
    if (line / d.out_height != image) image = line / d.out_height, filled = 0;
    const float* const pixels = input + image * d.height * d.width * d.channels;
    const int64_t top = line % d.out_height * d.stride_h - d.pad_top;
    if (padded) {
      filled = max_of(filled, max_of(0, top));
      for (const int64_t end = min_of(d.height, top + ring); filled < end; ++filled)
        copy_floats(pixels + filled * d.width * d.channels, lines + filled % ring * floats + before, copied);
    }
    const float* segments[kMaxLines];
    for (int64_t i = 0; i < d.kernel_h; ++i) {
      const int64_t from = top + i * d.dilation_h;
      segments[i] = from < 0 || from >= d.height ? zeros
                    : padded                     ? lines + from % ring * floats
                                                 : pixels + from * d.width * d.channels;
    }
    Gemm part = part_of(whole, line * d.out_width, (line + 1) * d.out_width);
    part.a = segments[0];
    part.a_segments = segments;
    part.segments = d.kernel_h;
    part.a_row = d.stride_w * d.channels;
    gemm(part, {0, part.rows}, {0, part.columns});
  }
}

void run_gathered(const Context& context, int64_t group) {
  const auto& d = ints_of<Ints>(context);
  const Gemm whole = product_of(context, group);
  float* gathered = static_cast<float*>(operands_of<Operands>(context).workspace) + context.thread * gather_floats(d);
  const int64_t block = gather_rows(d);
  // Few pixels: share the output channels out instead, and let each thread gather for itself.
  const bool by_columns = whole.rows < 4 * context.threads * kTileRows && whole.columns >= context.threads * kPanel;
  const Range mine = by_columns ? Range{0, whole.rows} : share(whole.rows, kTileRows, context.thread, context.threads);
  const Range panel =
      by_columns ? share(whole.columns, kPanel, context.thread, context.threads) : Range{0, whole.columns};
  for (int64_t begin = mine.begin; begin < mine.end; begin += block) {
    const int64_t end = min_of(mine.end, begin + block);
    gather(d, operands_of<Operands>(context).input, group, begin, end, gathered);
    Gemm part = part_of(whole, begin, end);
    part.a = gathered;
    part.a_row = whole.inner;
    gemm(part, {0, part.rows}, panel);
  }
}

void conv2d(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  if (!reads_in_place(d) && goes_by_lines(d)) return run_by_lines(context);
  for (int64_t group = 0; group < d.groups; ++group) {
    if (!reads_in_place(d)) {
      run_gathered(context, group);
      continue;
    }
    Gemm g = product_of(context, group);
    g.a = static_cast<const float*>(operands_of<Operands>(context).input) + group * (d.channels / d.groups);
    g.a_row = d.channels;
    gemm(g, context.thread, context.threads);
  }
}

int64_t workspace_bytes(const int64_t* ints, int threads) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  if (reads_in_place(d)) return 0;
  return threads * (goes_by_lines(d) ? lines_floats(d) : gather_floats(d)) * 4;
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
  add_kernel(table,
             {"conv2d", Operands::names, Ints::names, Floats::names, conv2d, workspace_bytes, packed_bytes, pack});
}

}  // namespace hs::HS_ISA
