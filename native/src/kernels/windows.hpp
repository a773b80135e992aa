// What lies under the windows of a convolution, as rows of a matrix (im2col). Lines are loaded once (normalised,
// activated, rounded), as wide as windows at the sides reach, into a ring; the rows are copied out of it, a run of
// pixels at a time. The gradient of the data reads in the same way: windows over the gradient of the output, from right
// to left.
#pragma once
#include "train.hpp"

namespace hs::HS_ISA {

// Position (i, j) of the window of pixel (y, x) reads pixel (top + y * stride_h + i * step_h, left + x * stride_w + j *
// step_w) of an image of height x width; beyond it lie zeros. Steps are negative in gradients.
struct Window {
  int64_t height, width, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w, step_h, step_w, top, left;
};

HS_INLINE int64_t size_of(int64_t step) { return step < 0 ? -step : step; }
HS_INLINE int64_t reach(int64_t kernel, int64_t step) { return (kernel - 1) * size_of(step) + 1; }
HS_INLINE int64_t line_pixels(const Window& w) { return (w.out_width - 1) * w.stride_w + reach(w.kernel_w, w.step_w); }
HS_INLINE int64_t image_lines(const Window& w) { return (w.out_height - 1) * w.stride_h + reach(w.kernel_h, w.step_h); }

// Lines that have to be there at a time: under one window where rows are gathered once, else under all of `rows`.
HS_INLINE int64_t ring_lines(const Window& w, int64_t rows, bool once) {
  const int64_t window = reach(w.kernel_h, w.step_h);
  if (once) return window;
  const int64_t lines = (rows + w.out_width - 2) / w.out_width, images = (lines + w.out_height - 1) / w.out_height;
  return lines * w.stride_h + images * max_of(0, image_lines(w) - w.out_height * w.stride_h) + window;
}

// n values; short runs are copied as two vectors that overlap.
template <int bytes>
HS_INLINE void copy_bytes(const char* from, char* to, int64_t n) {
  typedef char Bytes __attribute__((vector_size(bytes)));
  Bytes v;
  int64_t i = 0;
  for (; i + bytes <= n; i += bytes) {
    __builtin_memcpy(&v, from + i, bytes);
    __builtin_memcpy(to + i, &v, bytes);
  }
  if (i == n) return;
  __builtin_memcpy(&v, from + n - bytes, bytes);
  __builtin_memcpy(to + n - bytes, &v, bytes);
}

// Copies `count` runs of n bytes, from_step and to_step bytes apart.
HS_INLINE void copy_runs(const char* from, int64_t from_step, char* to, int64_t to_step, int64_t n, int64_t count) {
  const auto each = [&](auto copy) __attribute__((always_inline)) {
    for (int64_t r = 0; r < count; ++r, from += from_step, to += to_step) copy(from, to, n);
  };
  if (n >= kWidth * 4) return each(copy_bytes<kWidth * 4>);
  if (kWidth > 8 && n >= 32) return each(copy_bytes<32>);
  if (kWidth > 4 && n >= 16) return each(copy_bytes<16>);
  if (n >= 8) return each(copy_bytes<8>);
  if (n >= 4) return each(copy_bytes<4>);
  each(copy_bytes<2>);
}

// `load_pixels(pixel, count, to)` writes `count` pixels of `pixel_values` values each, from `pixel` on, counted over
// images.
template <class To, class Load>
struct Lines {
  using Value = typename To::Value;
  Window window;
  int64_t pixel_values;
  Load load_pixels;
  Value* ring;
  int64_t ring_lines;
  int64_t filled = 0;  // lines below, counted over images with all that windows reach, are in the ring or not needed

  void fill(int64_t until) {
    const Window& w = window;
    const int64_t lines = image_lines(w), pixels = line_pixels(w);
    const int64_t first_line = w.top + (w.step_h < 0 ? (w.kernel_h - 1) * w.step_h : 0);
    const int64_t first = w.left + (w.step_w < 0 ? (w.kernel_w - 1) * w.step_w : 0);
    const int64_t begin = min_of(pixels, max_of(0, -first)), end = max_of(begin, min_of(pixels, w.width - first));
    for (; filled < until; ++filled) {
      Value* to = ring + filled % ring_lines * pixels * pixel_values;
      const int64_t image = filled / lines, line = filled % lines + first_line;
      const bool inside = line >= 0 && line < w.height && begin < end;
      const int64_t from = inside ? begin : pixels, behind = inside ? end : pixels;
      __builtin_memset(to, 0, static_cast<size_t>(from * pixel_values) * sizeof(Value));
      if (inside)
        load_pixels((image * w.height + line) * w.width + first + begin, end - begin, to + begin * pixel_values);
      __builtin_memset(to + behind * pixel_values, 0,
                       static_cast<size_t>((pixels - behind) * pixel_values) * sizeof(Value));
    }
  }

  // Rows [begin, end): positions [positions.begin, positions.end) of the window, `channels` values of each from channel
  // `first` on. Rows are asked for in order, but for those of one block, which may be asked for again.
  void gather(int64_t begin, int64_t end, Range positions, int64_t first, int64_t channels, Value* to, int64_t to_row) {
    const Window& w = window;
    const bool joined = w.step_w == 1 && channels == pixel_values;  // neighbours of a line of the window: one run
    const int64_t line_values = line_pixels(w) * pixel_values;
    for (int64_t m = begin; m < end;) {
      const int64_t line = m / w.out_width, x = m % w.out_width, count = min_of(end - m, w.out_width - x);
      const int64_t top = line / w.out_height * image_lines(w) + line % w.out_height * w.stride_h;
      filled = max_of(filled, top);
      fill(top + reach(w.kernel_h, w.step_h));
      Value* y = to + (m - begin) * to_row;
      for (int64_t p = positions.begin; p < positions.end;) {
        const int64_t i = p / w.kernel_w, j = p % w.kernel_w;
        const int64_t run = joined ? min_of(w.kernel_w - j, positions.end - p) : 1;
        const int64_t down = w.step_h < 0 ? (i - w.kernel_h + 1) * w.step_h : i * w.step_h;
        const int64_t right = w.step_w < 0 ? (j - w.kernel_w + 1) * w.step_w : j * w.step_w;
        const Value* from =
            ring + (top + down) % ring_lines * line_values + (x * w.stride_w + right) * pixel_values + first;
        constexpr int64_t size = sizeof(Value);
        copy_runs(reinterpret_cast<const char*>(from), w.stride_w * pixel_values * size, reinterpret_cast<char*>(y),
                  to_row * size, run * channels * size, count);
        y += run * channels;
        p += run;
      }
      m += count;
    }
  }
};

// The window's positions in blocks of about kMostInner values, so that many rows of a block fit the cache beside those
// of the result, and what they are multiplied with is read once for all of them.
constexpr int64_t kMostInner = 512;
HS_INLINE int64_t positions_at_once(int64_t positions, int64_t channels) {
  const int64_t blocks = min_of(positions, divide_up(positions * channels, kMostInner));
  const int64_t each = divide_up(positions, blocks);
  return each < positions && each % 2 != 0 && channels % 2 != 0 ? each + 1 : each;  // whole pairs in each
}

// Rows whose length is a power of two would share a few places of the cache.
HS_INLINE int64_t spread(int64_t row) { return row % 256 == 0 ? row + 16 : row; }

}  // namespace hs::HS_ISA
