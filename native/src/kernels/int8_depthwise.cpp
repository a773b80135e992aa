// Depthwise convolution of codes to codes: windows of 3x3 and 5x5, stride 1 and 2. Four neighbouring pixels are
// interleaved into words that hold the same channel of each; a word times four taps is one dot product, and
// neighbouring output pixels use the same words with taps shifted by one or two bytes.
#include "int8_lanes.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, input, weights, output);
HS_FIELDS(Ints, int64_t, batch, height, width, channels, out_height, out_width, kernel, stride, pad_top, pad_left);

constexpr int kNarrow = 16;  // the narrowest block of channels
constexpr int kWidest = kWidth * 4;
alignas(64) constexpr uint8_t kZeros[64] = {};

// A block's constants: scale, bias and the value that sums start from (4 bytes for each channel), then for each row of
// the window one or two words of taps. Blocks follow each other, so a block's constants start at channel * this.
int64_t words_of(int64_t kernel) { return divide_up(kernel, 4); }
int64_t bytes_per_channel(const Ints& d) { return 12 + 4 * d.kernel * words_of(d.kernel); }

int64_t block_width(int64_t left) {
  int64_t width = kWidest;
  while (width > kNarrow && width > left) width /= 2;
  return width;
}

struct Rows {
  const uint8_t* input;
  const uint8_t* constants;
  uint8_t* output;
  int64_t channel, count;  // first channel of the block; how many it has, if fewer than it is wide
  int64_t begin, end;      // output rows, counted over the batch
};

template <int kBytes, int kKernel, int kStride>
struct Depthwise {
  using L = Lanes<kBytes>;
  static constexpr int kWords = (kKernel + 3) / 4;
  // Output pixels that share the same words, and how many such groups are done at a time.
  static constexpr int kGroup = kKernel == 3 ? 2 / kStride : 4 / kStride;
  static constexpr int kGroups = kWidth == 16 ? 4 / kGroup : 1;
  static constexpr int kOutputs = kGroup * kGroups;
  static constexpr int kSpan = kWords * 4;
  static constexpr int64_t kStep = kGroup * kStride;                 // input pixels from a group to the next
  static constexpr int64_t kPixels = (kGroups - 1) * kStep + kSpan;  // those that `outputs` reads in a row

  // Taps of one row of the window for each of the group's output pixels: shifted copies of the packed ones, as `dot`
  // wants them.
  struct Taps {
    typename L::Right right[kKernel][kWords][kGroup][4];
  };
  static void spread(const uint8_t* packed, Taps& taps) {
    uint8_t bytes[kWords][kGroup][4 * kBytes];
    for (int i = 0; i < kKernel; ++i) {
      for (int lane = 0; lane < kBytes; ++lane) {
        uint64_t row = 0;
        for (int w = 0; w < kWords; ++w) {
          uint32_t word;
          __builtin_memcpy(&word, packed + ((i * kWords + w) * kBytes + lane) * 4, 4);
          row |= static_cast<uint64_t>(word) << (32 * w);
        }
        for (int o = 0; o < kGroup; ++o)
          for (int w = 0; w < kWords; ++w) {
            const auto word = static_cast<uint32_t>((row << (8 * o * kStride)) >> (32 * w));
            __builtin_memcpy(bytes[w][o] + lane * 4, &word, 4);
          }
      }
      for (int w = 0; w < kWords; ++w)
        for (int o = 0; o < kGroup; ++o)
          for (int q = 0; q < 4; ++q) taps.right[i][w][o][q] = L::right(L::load(bytes[w][o] + q * kBytes));
    }
  }

  // `pixel(i, j)`: address of the j-th input pixel, from the left end of the first window, in the window's row i.
  template <class Pixel>
  HS_INLINE void outputs(Pixel pixel, const uint8_t* constants, const Taps& taps, uint8_t* to, int64_t to_step,
                         int64_t valid) {
    typename L::Ints sum[kOutputs][4];
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      const auto start = kDotOffset == 0 ? L::zero() : L::load(constants + (8 + q) * kBytes);
#pragma GCC unroll 4
      for (int o = 0; o < kOutputs; ++o) sum[o][q] = start;
    }
#pragma GCC unroll 5
    for (int i = 0; i < kKernel; ++i)
#pragma GCC unroll 2
      for (int w = 0; w < kWords; ++w) {
        typename L::Left left[kGroups][4];
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) {
          const int64_t j = g * kStep + w * 4;
          typename L::Ints words[4];
          L::interleave(L::load(pixel(i, j)), L::load(pixel(i, j + 1)), L::load(pixel(i, j + 2)),
                        L::load(pixel(i, j + 3)), words);
#pragma GCC unroll 4
          for (int q = 0; q < 4; ++q) left[g][q] = L::left(words[q]);
        }
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q)
#pragma GCC unroll 4
          for (int o = 0; o < kGroup; ++o) {
            const typename L::Right right = taps.right[i][w][o][q];
#pragma GCC unroll 4
            for (int g = 0; g < kGroups; ++g)
              sum[g * kGroup + o][q] = L::dot(sum[g * kGroup + o][q], left[g][q], right);
          }
      }
    const auto* scale = reinterpret_cast<const float*>(constants);
    const float* bias = scale + kBytes;
    const auto top = L::floats(255.0f);
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      const auto s = L::load_floats(scale + q * (kBytes / 4)), b = L::load_floats(bias + q * (kBytes / 4));
#pragma GCC unroll 4
      for (int o = 0; o < kOutputs; ++o) sum[o][q] = L::rounded(L::least(L::to_floats(sum[o][q]) * s + b, top));
    }
#pragma GCC unroll 4
    for (int o = 0; o < kOutputs; ++o) {
      if (o >= valid) break;
      L::store(to + o * to_step, L::narrow(sum[o][0], sum[o][1], sum[o][2], sum[o][3]));
    }
  }

  // A block of fewer channels than it is wide: its pixels, copied to the full width, and the first of its outputs.
  static __attribute__((noinline)) void widen(const uint8_t* (*pixels)[kPixels], int64_t count, uint8_t* window) {
    for (int i = 0; i < kKernel; ++i)
      for (int64_t j = 0; j < kPixels; ++j, window += kBytes) {
        for (int64_t c = 0; c < count; ++c) window[c] = pixels[i][j][c];
        pixels[i][j] = window;
      }
  }
  static __attribute__((noinline)) void cut(const uint8_t* values, uint8_t* to, int64_t step, int64_t valid,
                                            int64_t count) {
    for (int64_t o = 0; o < valid; ++o)
      for (int64_t c = 0; c < count; ++c) to[o * step + c] = values[o * kBytes + c];
  }

  static void run(const Ints& d, const Rows& r) {
    Taps taps;
    spread(r.constants + 12 * kBytes, taps);
    const int64_t step = d.channels;
    const bool partial = r.count < kBytes;
    alignas(64) uint8_t window[kKernel * kPixels * kBytes] = {}, values[kOutputs * kBytes];
    for (int64_t row = r.begin; row < r.end; ++row) {
      const int64_t image = row / d.out_height, top = row % d.out_height * kStride - d.pad_top;
      const uint8_t* lines[kKernel];
      int64_t steps[kKernel];
      for (int i = 0; i < kKernel; ++i) {
        const bool inside = top + i >= 0 && top + i < d.height;
        lines[i] = inside ? r.input + (image * d.height + top + i) * d.width * step + r.channel : kZeros;
        steps[i] = inside ? step : 0;
      }
      uint8_t* to = r.output + row * d.out_width * step + r.channel;
      for (int64_t x = 0; x < d.out_width; x += kOutputs, to += kOutputs * step) {
        const int64_t left = x * kStride - d.pad_left, valid = min_of(kOutputs, d.out_width - x);
        if (!partial && left >= 0 && left + kPixels <= d.width) {
          const uint8_t* starts[kKernel];
          for (int i = 0; i < kKernel; ++i) starts[i] = lines[i] + left * steps[i];
          outputs([&](int i, int64_t j) __attribute__((always_inline)) { return starts[i] + j * steps[i]; },
                  r.constants, taps, to, step, valid);
          continue;
        }
        const uint8_t* pixels[kKernel][kPixels];
        for (int i = 0; i < kKernel; ++i)
          for (int64_t j = 0; j < kPixels; ++j)
            pixels[i][j] = left + j >= 0 && left + j < d.width ? lines[i] + (left + j) * steps[i] : kZeros;
        if (partial) widen(pixels, r.count, window);
        outputs([&](int i, int64_t j) __attribute__((always_inline)) { return pixels[i][j]; }, r.constants, taps,
                partial ? values : to, partial ? kBytes : step, valid);
        if (partial) cut(values, to, step, valid, r.count);
      }
    }
  }
};

template <int kBytes>
void run_block(const Ints& d, const Rows& r) {
  if (d.kernel == 3 && d.stride == 1) Depthwise<kBytes, 3, 1>::run(d, r);
  if (d.kernel == 3 && d.stride == 2) Depthwise<kBytes, 3, 2>::run(d, r);
  if (d.kernel == 5 && d.stride == 1) Depthwise<kBytes, 5, 1>::run(d, r);
  if (d.kernel == 5 && d.stride == 2) Depthwise<kBytes, 5, 2>::run(d, r);
}

void int8_depthwise(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const int64_t rows = d.batch * d.out_height;
  // Work is counted in rows of 16 channels; each thread gets a run of them, whatever the blocks' widths.
  const Range mine = share(divide_up(d.channels, kNarrow) * rows, 1, context.thread, context.threads);
  for (int64_t channel = 0, done = 0; channel < d.channels;) {
    const int64_t width = block_width(d.channels - channel), units = width / kNarrow;
    const auto row_at = [&](int64_t unit) { return max_of(0, min_of(rows, divide_up(max_of(0, unit - done), units))); };
    const Rows r{p.input,
                 static_cast<const uint8_t*>(p.weights) + channel * bytes_per_channel(d),
                 p.output,
                 channel,
                 min_of(width, d.channels - channel),
                 row_at(mine.begin),
                 row_at(mine.end)};
    if (r.begin < r.end) {
#if defined(__AVX512BW__)
      if (width == 64) run_block<64>(d, r);
#endif
#if defined(__AVX2__)
      if (width == 32) run_block<32>(d, r);
#endif
      if (width == kNarrow) run_block<kNarrow>(d, r);
    }
    done += units * rows;
    channel += width;
  }
}

int64_t packed_bytes(const int64_t* ints) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  return round_up(d.channels, kNarrow) * bytes_per_channel(d);
}

const char* pack(const int64_t* ints, const PackInput* inputs, int count, void* packed) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  if ((d.kernel != 3 && d.kernel != 5) || (d.stride != 1 && d.stride != 2))
    return "knows windows of 3 and 5, strides 1 and 2";
  const int64_t window = d.kernel * d.kernel;
  if (count != 3 || inputs[0].type != 'b' || inputs[0].elements != window * d.channels || inputs[1].type != 'f' ||
      inputs[1].elements != d.channels || inputs[2].type != 'f' || inputs[2].elements != d.channels)
    return "needs int8 weights (kernel, kernel, channels), float32 scales and float32 biases";
  const auto* weights = static_cast<const int8_t*>(inputs[0].data);
  const auto* scale = static_cast<const float*>(inputs[1].data);
  const auto* bias = static_cast<const float*>(inputs[2].data);
  const int64_t words = words_of(d.kernel);
  for (int64_t first = 0, width; first < d.channels; first += width) {
    width = block_width(d.channels - first);
    uint8_t* block = static_cast<uint8_t*>(packed) + first * bytes_per_channel(d);
    for (int64_t lane = 0; lane < width; ++lane) {
      // See `interleave`: word register q, 128-bit lane l, element i hold channel 16 * l + 4 * q + i.
      const int64_t q = lane / (width / 4), within = lane % (width / 4);
      const int64_t channel = first + within / 4 * 16 + q * 4 + within % 4;
      const bool real = channel < d.channels;
      const auto put = [&](int64_t position, auto value) {
        __builtin_memcpy(block + (position * width + lane) * 4, &value, 4);
      };
      int32_t sum = 0;
      for (int64_t i = 0; i < d.kernel; ++i)
        for (int64_t w = 0; w < words; ++w) {
          uint8_t taps[4];
          for (int64_t j = 0; j < 4; ++j) {
            const int64_t tap = w * 4 + j;
            const int8_t weight =
                real && tap < d.kernel ? weights[(i * d.kernel + tap) * d.channels + channel] : int8_t{0};
            sum += weight;
            taps[j] = static_cast<uint8_t>(weight);
          }
          __builtin_memcpy(block + ((3 + i * words + w) * width + lane) * 4, taps, 4);
        }
      put(0, real ? scale[channel] : 0.0f);
      put(1, real ? bias[channel] : 0.0f);
      put(2, kDotOffset * sum);
    }
  }
  return nullptr;
}

}  // namespace

void add_int8_depthwise(KernelTable& table) {
  add_kernel(table, {"int8_depthwise", Operands::names, Ints::names, Nothing::names, int8_depthwise, nullptr,
                     packed_bytes, pack});
}

}  // namespace hs::HS_ISA
