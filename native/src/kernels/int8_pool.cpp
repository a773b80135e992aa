// Mean over all pixels of an image of codes, as float32: what follows the last 8-bit convolution of a network.
#include "int8_lanes.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, input, scale, output);
HS_FIELDS(Ints, int64_t, batch, pixels, channels);

void int8_global_average_pool(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const uint8_t* input = p.input;
  const float* scale = p.scale;
  float* output = p.output;
  constexpr int64_t kVectors = 4, kBlock = kVectors * kWidth;
  const float share_of_pixel = 1.0f / static_cast<float>(d.pixels);
  const int64_t blocks = divide_up(d.channels, kBlock);
  const Range mine = share(d.batch * blocks, 1, context.thread, context.threads);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const int64_t image = i / blocks, channel = i % blocks * kBlock, count = min_of(kBlock, d.channels - channel);
    const uint8_t* from = input + image * d.pixels * d.channels + channel;
    int32_t sums[kBlock] = {};
    if (count == kBlock) {
      Wide::Ints sum[kVectors] = {};
      for (int64_t pixel = 0; pixel < d.pixels; ++pixel, from += d.channels)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[v] += Wide::widen(from + v * kWidth);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) Wide::store(sums + v * kWidth, sum[v]);
    } else {
      for (int64_t pixel = 0; pixel < d.pixels; ++pixel, from += d.channels)
        for (int64_t c = 0; c < count; ++c) sums[c] += from[c];
    }
    const float* s = scale + channel;
    float* to = output + image * d.channels + channel;
    for (int64_t c = 0; c < count; ++c) to[c] = static_cast<float>(sums[c]) * (s[c] * share_of_pixel);
  }
}

}  // namespace

void add_int8_pool(KernelTable& table) {
  add_kernel(table, {"int8_global_average_pool", Operands::names, Ints::names, Nothing::names, int8_global_average_pool,
                     nullptr, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
