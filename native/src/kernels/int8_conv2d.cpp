// 2-D convolution with 8-bit weights, as a matrix multiply in 8 bits. The input is codes (unsigned bytes whose scale is
// in the weights' scales, zero point 0), or float32: then every output pixel's window is quantised on its own range
// while it is gathered into this thread's workspace, which needs no calibration and no pass over the image beforehand.
#include "int8_gemm.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, input, weights, residual, output, workspace);
HS_FIELDS(Ints, int64_t, batch, height, width, channels, out_height, out_width, out_channels, kernel_h, kernel_w,
          stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, groups, activation, residual_after,
          input_codes, input_non_negative, output_codes);
HS_FIELDS(Floats, float, alpha, beta);

constexpr int64_t kBlockBytes = 24 << 10;
constexpr int64_t kFewRows = 64;  // fewer than these for each thread: share out the columns instead

bool is_pointwise(const Ints& d) {
  return d.kernel_h == 1 && d.kernel_w == 1 && d.stride_h == 1 && d.stride_w == 1 && d.pad_top == 0 &&
         d.pad_left == 0 && d.out_height == d.height && d.out_width == d.width;
}
// Whether the rows of A can be read where they lie: as many bytes as go together must not run over the end.
bool reads_in_place(const Ints& d) {
  return sizeof(Code) == 1 && d.input_codes != 0 && is_pointwise(d) && d.channels / d.groups % kDepth == 0;
}
int64_t inner_of(const Ints& d) { return d.kernel_h * d.kernel_w * (d.channels / d.groups); }
int64_t rows_of(const Ints& d) { return d.batch * d.out_height * d.out_width; }
int64_t group_bytes(const Ints& d) { return int8_packed_bytes(inner_of(d), d.out_channels / d.groups); }

int64_t row_bytes(const Ints& d) { return int8_inner(inner_of(d)) * static_cast<int64_t>(sizeof(Code)); }

int64_t block_rows(const Ints& d) {
  const int64_t fit = kBlockBytes / row_bytes(d) / 24 * 24;
  return min_of(min_of(max_of(24, fit), 384), round_up(rows_of(d), 24));
}

// A thread's workspace: codes of a block of rows, their scales, and a few windows of floats.
struct Workspace {
  int64_t scales, windows, bytes;
};
Workspace workspace_of(const Ints& d) {
  const int64_t codes = round_up(block_rows(d) * row_bytes(d) + 64, 64);
  const int64_t scales = round_up((block_rows(d) + kQuantizedRows) * 4, 64);
  return {codes, codes + scales, codes + scales + round_up(kQuantizedRows * inner_of(d) * 4, 64)};
}

template <class T, class To>
HS_INLINE void copy_values(const T* from, To* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
template <class T>
HS_INLINE void clear_values(T* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = T{};
}

// What lies under the window of output pixel m, for one group.
template <class T, class To>
void gather_window(const Ints& d, const T* input, int64_t group, int64_t m, To* to) {
  const int64_t channels = d.channels / d.groups, pixels = d.out_height * d.out_width;
  const int64_t image = m / pixels, top = m % pixels / d.out_width * d.stride_h - d.pad_top;
  const int64_t left = m % d.out_width * d.stride_w - d.pad_left;
  const bool whole_lines = d.groups == 1 && d.dilation_w == 1 && left >= 0 && left + d.kernel_w <= d.width;
  for (int64_t i = 0; i < d.kernel_h; ++i) {
    const int64_t line = top + i * d.dilation_h;
    const T* from = input + (image * d.height + line) * d.width * d.channels + group * channels;
    if (line < 0 || line >= d.height) {
      clear_values(to, d.kernel_w * channels);
      to += d.kernel_w * channels;
    } else if (whole_lines) {
      copy_values(from + left * channels, to, d.kernel_w * channels);
      to += d.kernel_w * channels;
    } else {
      for (int64_t j = 0; j < d.kernel_w; ++j, to += channels) {
        const int64_t column = left + j * d.dilation_w;
        if (column < 0 || column >= d.width) {
          clear_values(to, channels);
        } else {
          copy_values(from + column * d.channels, to, channels);
        }
      }
    }
  }
}

// Rows of A from codes.
void gather_codes(const Ints& d, const uint8_t* input, int64_t group, Range pixels, Code* to) {
  const int64_t row = int8_inner(inner_of(d));
  if (is_pointwise(d) && row == d.channels) {
    copy_values(input + pixels.begin * row, to, (pixels.end - pixels.begin) * row);
    return;
  }
  for (int64_t m = pixels.begin; m < pixels.end; ++m, to += row) gather_window(d, input, group, m, to);
}

// Codes and scales of what lies under the windows of these output pixels. Windows within the image are read in place.
void quantize_windows(const Ints& d, const float* input, int64_t group, Range pixels, Code* codes, float* scales,
                      float* windows) {
  const int64_t channels = d.channels / d.groups, inner = inner_of(d), row = d.width * d.channels;
  const int64_t run =
      d.kernel_w * channels;  // floats that lie together, in the image too, unless groups or gaps part them
  const bool together = (d.groups == 1 || d.kernel_w == 1) && (d.dilation_w == 1 || d.kernel_w == 1);
  int64_t x = pixels.begin % d.out_width, y = pixels.begin / d.out_width % d.out_height;
  int64_t image = pixels.begin / d.out_width / d.out_height;
  int64_t top = y * d.stride_h - d.pad_top, left = x * d.stride_w - d.pad_left;
  const auto line_inside = [&] { return together && top >= 0 && top + (d.kernel_h - 1) * d.dilation_h < d.height; };
  const auto line_start = [&] { return input + (image * d.height + top) * row + group * channels; };
  bool inside = line_inside();
  const float* start = line_start();
  Lines lines[kQuantizedRows];
  for (int64_t m = pixels.begin; m < pixels.end; m += kQuantizedRows) {
    const int64_t count = min_of(kQuantizedRows, pixels.end - m);
    for (int64_t i = 0; i < count; ++i) {
      if (inside && left >= 0 && left + d.kernel_w <= d.width) {
        lines[i] = {start + left * d.channels, row * d.dilation_h};
      } else {
        lines[i] = {windows + i * inner, run};
        gather_window(d, input, group, m + i, windows + i * inner);
      }
      left += d.stride_w;
      if (++x == d.out_width) {
        x = 0;
        left = -d.pad_left;
        if (++y == d.out_height) y = 0, ++image;
        top = y * d.stride_h - d.pad_top;
        inside = line_inside();
        start = line_start();
      }
    }
    quantize_rows(lines, count, d.kernel_h, run, d.input_non_negative != 0,
                  codes + (m - pixels.begin) * int8_inner(inner), int8_inner(inner), scales + (m - pixels.begin));
  }
}

void int8_conv2d(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const auto& f = floats_of<Floats>(context);
  const int64_t rows = rows_of(d), inner = inner_of(d), columns = d.out_channels / d.groups;
  const int64_t channels = d.channels / d.groups;
  const bool by_columns = rows < kFewRows * context.threads && int8_vectors(columns) >= 2 * context.threads;
  const Range my_rows = by_columns ? Range{0, rows} : share(rows, 1, context.thread, context.threads);
  const Range all{0, int8_vectors(columns)};
  const Range my_vectors = by_columns ? share(all.end, 1, context.thread, context.threads) : all;
  const Workspace layout = workspace_of(d);
  uint8_t* mine = p.workspace.absent() ? nullptr : static_cast<uint8_t*>(p.workspace) + context.thread * layout.bytes;
  auto* codes = reinterpret_cast<Code*>(mine);
  auto* scales = reinterpret_cast<float*>(mine + layout.scales);
  auto* windows = reinterpret_cast<float*>(mine + layout.windows);
  const int64_t block = block_rows(d);

  for (int64_t group = 0; group < d.groups; ++group) {
    Int8Gemm g{};
    g.columns = columns;
    g.inner = inner;
    g.packed = static_cast<const uint8_t*>(p.weights) + group * group_bytes(d);
    g.c_row = g.residual_row = d.out_channels;
    g.residual_after = d.residual_after != 0;
    g.activation = {static_cast<Activation>(d.activation), f.alpha, f.beta};
    const auto multiply = [&](int64_t begin, int64_t end) {
      const int64_t first = begin * d.out_channels + group * columns;
      g.rows = end - begin;
      if (d.output_codes != 0) {
        g.codes = static_cast<uint8_t*>(p.output) + first;
      } else {
        g.c = static_cast<float*>(p.output) + first;
      }
      if (!p.residual.absent()) g.residual = static_cast<const float*>(p.residual) + first;
      int8_gemm(g, {0, end - begin}, my_vectors);
    };
    if (reads_in_place(d)) {
      g.a = static_cast<const Code*>(p.input) + my_rows.begin * d.channels + group * channels;
      g.a_row = d.channels;
      multiply(my_rows.begin, my_rows.end);
      continue;
    }
    g.a = codes;
    g.a_row = int8_inner(inner);
    for (int64_t begin = my_rows.begin; begin < my_rows.end; begin += block) {
      const int64_t end = min_of(my_rows.end, begin + block);
      if (d.input_codes != 0) {
        gather_codes(d, p.input, group, {begin, end}, codes);
      } else {
        quantize_windows(d, p.input, group, {begin, end}, codes, scales, windows);
      }
      g.row_scale = d.input_codes != 0 ? nullptr : scales;
      multiply(begin, end);
    }
  }
}

int64_t workspace_bytes(const int64_t* ints, int threads) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  return reads_in_place(d) ? 0 : threads * workspace_of(d).bytes;
}

int64_t packed_bytes(const int64_t* ints) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  return d.groups * group_bytes(d);
}

const char* pack(const int64_t* ints, const PackInput* inputs, int count, void* packed) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  const int64_t inner = inner_of(d), columns = d.out_channels / d.groups;
  if (count != 3 || inputs[0].type != 'b' || inputs[0].elements != inner * d.out_channels || inputs[1].type != 'f' ||
      inputs[1].elements != d.out_channels || inputs[2].type != 'f' || inputs[2].elements != d.out_channels)
    return "needs int8 weights (kernel_h, kernel_w, channels / groups, out_channels), float32 scales and float32 "
           "biases";
  const int32_t zero = d.input_codes != 0 || d.input_non_negative != 0 ? 0 : 128;
  for (int64_t group = 0; group < d.groups; ++group)
    int8_pack(static_cast<const int8_t*>(inputs[0].data) + group * columns, d.out_channels,
              static_cast<const float*>(inputs[1].data) + group * columns,
              static_cast<const float*>(inputs[2].data) + group * columns, zero, inner, columns,
              static_cast<uint8_t*>(packed) + group * group_bytes(d));
  return nullptr;
}

}  // namespace

void add_int8_conv2d(KernelTable& table) {
  add_kernel(table, {"int8_conv2d", Operands::names, Ints::names, Floats::names, int8_conv2d, workspace_bytes,
                     packed_bytes, pack});
}

}  // namespace hs::HS_ISA
