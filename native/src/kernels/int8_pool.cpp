// Mean over all pixels of an image of codes, as float32: what follows the last 8-bit convolution of a network.
#include "int8_lanes.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, input, scale, output);
HS_FIELDS(Ints, int64_t, batch, pixels, channels);

constexpr int kBlock = 16;
typedef uint8_t Codes __attribute__((vector_size(kBlock)));
typedef int32_t Sums __attribute__((vector_size(kBlock * 4)));

void int8_global_average_pool(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const uint8_t* input = p.input;
  const float* scale = p.scale;
  float* output = p.output;
  const int64_t blocks = divide_up(d.channels, kBlock);
  const Range mine = share(d.batch * blocks, 1, context.thread, context.threads);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const int64_t image = i / blocks, channel = i % blocks * kBlock, count = min_of(kBlock, d.channels - channel);
    const uint8_t* from = input + image * d.pixels * d.channels + channel;
    Sums sums{};
    for (int64_t pixel = 0; pixel < d.pixels; ++pixel, from += d.channels) {
      if (count == kBlock) {
        Codes codes;
        __builtin_memcpy(&codes, from, kBlock);
        sums += __builtin_convertvector(codes, Sums);
      } else {
        for (int64_t c = 0; c < count; ++c) sums[c] += from[c];
      }
    }
    const float share_of_pixel = 1.0f / static_cast<float>(d.pixels);
    for (int64_t c = 0; c < count; ++c)
      output[image * d.channels + channel + c] = static_cast<float>(sums[c]) * (scale[channel + c] * share_of_pixel);
  }
}

}  // namespace

void add_int8_pool(KernelTable& table) {
  add_kernel(table, {"int8_global_average_pool", Operands::names, Ints::names, Nothing::names, int8_global_average_pool,
                     nullptr, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
