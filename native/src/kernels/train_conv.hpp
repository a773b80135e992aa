// What both directions of convolutions in training share: how much is loaded at a time, and how the input's rows are
// loaded. `Ints` are those of either kernel.
#pragma once
#include "windows.hpp"

namespace hs::HS_ISA {

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
HS_INLINE int64_t rows_that_fit(int64_t row_floats, int64_t rows) {
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

// Rows [begin, end) of the matrix that a convolution of 1x1 multiplies: of pixels a stride apart, for one group.
template <class S, class To, class Ints>
void gather_pixels(const Ints& d, const typename S::Value* x, OnLoad load_as, int64_t group, int64_t begin, int64_t end,
                   typename To::Value* to, int64_t to_row) {
  const int64_t channels = d.channels / d.groups, x_row = row_of(d.x_row, d.channels);
  load_as = part_of(load_as, group * channels);
  const int64_t pixels = d.out_height * d.out_width;
  const bool same = d.stride_h == 1 && d.stride_w == 1 && d.pad_top == 0 && d.pad_left == 0 &&
                    d.out_height == d.height && d.out_width == d.width;
  for (int64_t m = begin; m < end; ++m, to += to_row) {
    const int64_t line = m % pixels / d.out_width * d.stride_h - d.pad_top;
    const int64_t column = m % d.out_width * d.stride_w - d.pad_left;
    const int64_t pixel = same ? m : (m / pixels * d.height + line) * d.width + column;
    if (line < 0 || line >= d.height || column < 0 || column >= d.width) {
      clear<To>(to, channels);
    } else {
      load_row<S, To>(x + pixel * x_row + group * channels, load_as, to, channels);
    }
    if (to_row > channels) to[channels] = 0;
  }
}

// How windows over the input lie.
template <class Ints>
Window window_of(const Ints& d) {
  return {d.height,   d.width,    d.out_height, d.out_width,  d.kernel_h, d.kernel_w,
          d.stride_h, d.stride_w, d.dilation_h, d.dilation_w, -d.pad_top, -d.pad_left};
}
template <class Ints>
bool has_window(const Ints& d) {
  return d.kernel_h * d.kernel_w > 1;
}

template <class S, class To, class Ints>
auto input_lines(const Ints& d, const typename S::Value* x, OnLoad load_as, typename To::Value* ring, int64_t lines) {
  const int64_t x_row = row_of(d.x_row, d.channels), channels = d.channels;
  const auto load = [=](int64_t pixel, int64_t count, typename To::Value* to) {
    if (x_row == channels && !changes(load_as))
      return load_row<S, To>(x + pixel * x_row, load_as, to, count * channels);
    for (int64_t i = 0; i < count; ++i) load_row<S, To>(x + (pixel + i) * x_row, load_as, to + i * channels, channels);
  };
  return Lines<To, decltype(load)>{window_of(d), channels, load, ring, lines};
}

}  // namespace hs::HS_ISA
