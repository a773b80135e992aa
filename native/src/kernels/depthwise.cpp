// Depthwise convolution over NHWC pixels: vectors run over channels, and a block of neighbouring output pixels is
// computed at a time, so that an input pixel is loaded once per window row for all outputs that see it.
// Weights: (kernel_h, kernel_w, 1, channels).
#include "depthwise.hpp"

namespace hs::HS_ISA {
namespace {

// Outputs [first, first + kBlock) of a row. With kEdge, window columns outside the image are left out.
template <int kWindow, int kStride, int kBlock, bool kEdge>
void run_block(const DepthwiseRow& r, int64_t first) {
  constexpr int kColumns = (kBlock - 1) * kStride + kWindow;
  const int64_t left = first * kStride - r.pad_left;
  [[maybe_unused]] uint64_t inside = 0;
  if constexpr (kEdge)
    for (int j = 0; j < kColumns; ++j) inside |= static_cast<uint64_t>(left + j >= 0 && left + j < r.width) << j;
  const Vec low = broadcast(r.limits.low), high = broadcast(r.limits.high);
  float* output = r.output + first * r.out_pixel;
  const int64_t pixel = r.pixel, out_pixel = r.out_pixel;

  const auto step = [&](int64_t c, auto read, auto write) __attribute__((always_inline)) {
    Vec sum[kBlock];
    const Vec bias = r.bias != nullptr ? read(r.bias + c) : zero();
#pragma GCC unroll 16
    for (int o = 0; o < kBlock; ++o) sum[o] = bias;
    const float* weights = r.weights + c;
    for (int64_t i = 0; i < r.kernel_h; ++i, weights += kWindow * r.weight_tap) {
      if (r.rows[i] == nullptr) continue;
      const float* x = r.rows[i] + left * pixel + c;
      Vec column[kColumns];
#pragma GCC unroll 32
      for (int j = 0; j < kColumns; ++j) {
        if constexpr (kEdge) {
          column[j] = (inside >> j & 1) != 0 ? read(x + j * pixel) : zero();
        } else {
          column[j] = read(x + j * pixel);
        }
      }
#pragma GCC unroll 16
      for (int k = 0; k < kWindow; ++k) {
        const Vec w = read(weights + k * r.weight_tap);
#pragma GCC unroll 16
        for (int o = 0; o < kBlock; ++o) sum[o] += column[o * kStride + k] * w;
      }
    }
#pragma GCC unroll 16
    for (int o = 0; o < kBlock; ++o) write(output + o * out_pixel + c, min_of(high, max_of(low, sum[o])));
  };
  int64_t c = 0;
  for (; c + kWidth <= r.channels; c += kWidth)
    step(
        c, [](const float* p) __attribute__((always_inline)) { return load(p); },
        [](float* p, Vec v) __attribute__((always_inline)) { store(p, v); });
  const int64_t rest = r.channels - c;
  if (rest > 0)
    step(
        c, [rest](const float* p) __attribute__((always_inline)) { return load_part(p, rest); },
        [rest](float* p, Vec v) __attribute__((always_inline)) { store_part(p, rest, v); });
}

// Sevens, since the maps of image networks are 112, 56, 28, 14 and 7 pixels wide, where the registers allow it.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kWideBlock = 7;
#else
constexpr int kWideBlock = 4;
#endif

template <int kWindow, int kStride>
void run_row(const DepthwiseRow& r) {
  const auto run = [&]<int kBlock>(int64_t first) __attribute__((always_inline)) {
    const int64_t left = first * kStride - r.pad_left;
    if (left >= 0 && left + (kBlock - 1) * kStride + kWindow <= r.width) {
      run_block<kWindow, kStride, kBlock, false>(r, first);
    } else {
      run_block<kWindow, kStride, kBlock, true>(r, first);
    }
  };
  int64_t x = 0;
  for (; x + kWideBlock <= r.out_width; x += kWideBlock) run.template operator()<kWideBlock>(x);
  if constexpr (kWideBlock > 4)
    if (x + 4 <= r.out_width) run.template operator()<4>(x), x += 4;
  if (x + 2 <= r.out_width) run.template operator()<2>(x), x += 2;
  if (x < r.out_width) run.template operator()<1>(x);
}

// Any window, stride and dilation, a pixel at a time.
void run_any_row(const DepthwiseRow& r) {
  const Vec low = broadcast(r.limits.low), high = broadcast(r.limits.high);
  for (int64_t x = 0; x < r.out_width; ++x) {
    const int64_t left = x * r.stride - r.pad_left;
    float* output = r.output + x * r.out_pixel;
    for (int64_t c = 0; c < r.channels; c += kWidth) {
      const int64_t lanes = min_of(kWidth, r.channels - c);
      Vec sum = r.bias != nullptr ? load_part(r.bias + c, lanes) : zero();
      for (int64_t i = 0; i < r.kernel_h; ++i) {
        if (r.rows[i] == nullptr) continue;
        for (int64_t j = 0; j < r.kernel_w; ++j) {
          const int64_t column = left + j * r.dilation;
          if (column < 0 || column >= r.width) continue;
          sum += load_part(r.rows[i] + column * r.pixel + c, lanes) *
                 load_part(r.weights + (i * r.kernel_w + j) * r.weight_tap + c, lanes);
        }
      }
      store_part(output + c, lanes, min_of(high, max_of(low, sum)));
    }
  }
}

}  // namespace

void depthwise_row(const DepthwiseRow& r) {
  if (r.dilation == 1 && r.stride <= 2) {
    if (r.kernel_w == 3) return r.stride == 1 ? run_row<3, 1>(r) : run_row<3, 2>(r);
    if (r.kernel_w == 5) return r.stride == 1 ? run_row<5, 1>(r) : run_row<5, 2>(r);
  }
  run_any_row(r);
}

namespace {

HS_FIELDS(Operands, Buffer, input, weights, bias, residual, output);
HS_FIELDS(Ints, int64_t, batch, height, width, channels, out_height, out_width, out_channels, kernel_h, kernel_w,
          stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, groups, activation, residual_after);
HS_FIELDS(Floats, float, alpha, beta);

void depthwise(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const auto& f = floats_of<Floats>(context);
  const float* input = p.input;
  const float* residual = p.residual;
  const ActivationSpec activation{static_cast<Activation>(d.activation), f.alpha, f.beta};
  // What does not fit into registers runs over the finished row, which is still in the first-level cache.
  const bool simple = is_clip(activation.kind) && (residual == nullptr || d.residual_after != 0);
  const int64_t lines = d.batch * d.out_height;
  const bool by_channels = lines < 8 * context.threads && d.channels >= context.threads * kWidth;
  const Range mine = by_channels ? Range{0, lines} : share(lines, 1, context.thread, context.threads);
  const Range channels =
      by_channels ? share(d.channels, kWidth, context.thread, context.threads) : Range{0, d.channels};

  const float* rows[kMaxWindowRows];
  DepthwiseRow r{};
  r.rows = rows;
  r.kernel_h = d.kernel_h;
  r.kernel_w = d.kernel_w;
  r.stride = d.stride_w;
  r.dilation = d.dilation_w;
  r.pad_left = d.pad_left;
  r.width = d.width;
  r.out_width = d.out_width;
  r.channels = channels.end - channels.begin;
  r.pixel = r.out_pixel = r.weight_tap = d.channels;
  r.weights = static_cast<const float*>(p.weights) + channels.begin;
  r.bias = p.bias.absent() ? nullptr : static_cast<const float*>(p.bias) + channels.begin;
  r.limits = limits_of(simple ? activation : ActivationSpec{Activation::none, 0, 0});
  for (int64_t line = mine.begin; line < mine.end; ++line) {
    const int64_t image = line / d.out_height, y = line % d.out_height;
    for (int64_t i = 0; i < d.kernel_h; ++i) {
      const int64_t from = y * d.stride_h - d.pad_top + i * d.dilation_h;
      rows[i] = from < 0 || from >= d.height
                    ? nullptr
                    : input + (image * d.height + from) * d.width * d.channels + channels.begin;
    }
    const int64_t start = line * d.out_width * d.channels + channels.begin;
    r.output = static_cast<float*>(p.output) + start;
    depthwise_row(r);
    if (simple && residual == nullptr) continue;
    for (int64_t x = 0; x < d.out_width; ++x) {
      float* y_pixel = r.output + x * d.channels;
      const float* add = residual == nullptr ? nullptr : residual + start + x * d.channels;
      if (add != nullptr && d.residual_after == 0)
        for (int64_t c = 0; c < r.channels; ++c) y_pixel[c] += add[c];
      if (!simple) activate_values(y_pixel, y_pixel, r.channels, activation);
      if (add != nullptr && d.residual_after != 0)
        for (int64_t c = 0; c < r.channels; ++c) y_pixel[c] += add[c];
    }
  }
}

int64_t packed_bytes(const int64_t* ints) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  return d.kernel_h * d.kernel_w * d.channels * 4;
}

const char* pack(const int64_t* ints, const PackInput* inputs, int count, void* packed) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  if (d.groups != d.channels || d.out_channels != d.channels) return "needs groups, channels and out_channels alike";
  if (d.kernel_h > kMaxWindowRows) return "takes windows of at most 64 rows";
  if (count != 1 || inputs[0].type != 'f' || inputs[0].elements != d.kernel_h * d.kernel_w * d.channels)
    return "needs one float32 array (kernel_h, kernel_w, 1, channels)";
  __builtin_memcpy(packed, inputs[0].data, static_cast<size_t>(packed_bytes(ints)));
  return nullptr;
}

}  // namespace

void add_depthwise(KernelTable& table) {
  add_kernel(table, {"depthwise", Operands::names, Ints::names, Floats::names, depthwise, nullptr, packed_bytes, pack});
}

}  // namespace hs::HS_ISA
