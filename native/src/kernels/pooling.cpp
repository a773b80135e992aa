// Pooling over NHWC pixels: maximum, average, and the mean of the whole image.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, input, output);
HS_FIELDS(Ints, int64_t, batch, height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w,
          dilation_h, dilation_w, pad_top, pad_left, pad_bottom, pad_right, average, count_include_pad, half,
          output_row);

// Window positions k with 0 <= start + k * step < size.
Range taps(int64_t start, int64_t step, int64_t kernel, int64_t size) {
  const int64_t begin = start < 0 ? divide_up(-start, step) : 0;
  const int64_t end = start >= size ? 0 : min_of(kernel, divide_up(size - start, step));
  return {begin, max_of(begin, end)};
}

template <class S>
void pool_stored(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const typename S::Value* input = p.input;
  const int64_t output_row = row_of(d.output_row, d.channels);
  const Range mine = share(d.batch * d.out_height, 1, context.thread, context.threads);
  for (int64_t line = mine.begin; line < mine.end; ++line) {
    const int64_t image = line / d.out_height, y = line % d.out_height;
    const int64_t top = y * d.stride_h - d.pad_top;
    const Range down = taps(top, d.dilation_h, d.kernel_h, d.height);
    typename S::Value* output = static_cast<typename S::Value*>(p.output) + line * d.out_width * output_row;
    for (int64_t x = 0; x < d.out_width; ++x, output += output_row) {
      const int64_t left = x * d.stride_w - d.pad_left;
      const Range across = taps(left, d.dilation_w, d.kernel_w, d.width);
      int64_t count = (down.end - down.begin) * (across.end - across.begin);
      if (d.count_include_pad != 0) {
        // Padding counts, but not what a window rounded up reaches beyond it.
        count = (taps(top + d.pad_top, d.dilation_h, d.kernel_h, d.height + d.pad_top + d.pad_bottom).end) *
                (taps(left + d.pad_left, d.dilation_w, d.kernel_w, d.width + d.pad_left + d.pad_right).end);
      }
      const float scale = d.average != 0 && count > 0 ? 1.0f / static_cast<float>(count) : 1.0f;
      const typename S::Value* corner = input + ((image * d.height + top) * d.width + left) * d.channels;
      over_vectors(
          d.channels, HS_EACH {
            Vec total = broadcast(d.average != 0 ? 0.0f : -__builtin_inff());
            for (int64_t k = down.begin; k < down.end; ++k)
              for (int64_t j = across.begin; j < across.end; ++j) {
                const Vec value =
                    S::read(corner + (k * d.dilation_h * d.width + j * d.dilation_w) * d.channels + i, lanes);
                total = d.average != 0 ? total + value : max_of(total, value);
              }
            S::write(output + i, lanes, total * scale);
          });
    }
  }
}
void pool(const Context& context) { HS_BY_STORAGE(ints_of<Ints>(context).half, pool_stored, context); }

HS_FIELDS(GlobalInts, int64_t, batch, pixels, channels);

void global_average_pool(const Context& context) {
  const auto& d = ints_of<GlobalInts>(context);
  const auto& p = operands_of<Operands>(context);
  const int64_t blocks = divide_up(d.channels, kWidth);
  const Range mine = share(d.batch * blocks, 1, context.thread, context.threads);
  const float scale = 1.0f / static_cast<float>(d.pixels);
  for (int64_t at = mine.begin; at < mine.end; ++at) {
    const int64_t image = at / blocks, c = at % blocks * kWidth;
    const int64_t lanes = min_of(kWidth, d.channels - c);
    const float* x = static_cast<const float*>(p.input) + image * d.pixels * d.channels + c;
    Vec sum[4] = {};  // four chains hide the latency of the additions
    for (int64_t i = 0; i < d.pixels; ++i, x += d.channels)
      sum[i & 3] += lanes == kWidth ? load(x) : load_part(x, lanes);
    store_part(static_cast<float*>(p.output) + image * d.channels + c, lanes,
               (sum[0] + sum[1] + (sum[2] + sum[3])) * scale);
  }
}

}  // namespace

void add_pooling(KernelTable& table) {
  add_kernel(table, {"pool", Operands::names, Ints::names, Nothing::names, pool, nullptr, nullptr, nullptr});
  add_kernel(table, {"global_average_pool", Operands::names, GlobalInts::names, Nothing::names, global_average_pool,
                     nullptr, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
