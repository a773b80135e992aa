// One row of output pixels of a depthwise convolution: the piece that the plain and the fused kernels share.
#pragma once
#include "activation.hpp"

namespace hs::HS_ISA {

inline constexpr int64_t kMaxWindowRows = 64;

struct DepthwiseRow {
  const float* const* rows;  // kernel_h input rows, null where the window hangs over the top or bottom edge
  int64_t kernel_h, kernel_w, stride, dilation, pad_left;
  int64_t width, out_width;
  int64_t channels;      // to compute; pixels may be wider
  int64_t pixel;         // floats from an input pixel to the next
  int64_t out_pixel;     // the same for output
  const float* weights;  // (kernel_h, kernel_w, weight_tap)
  int64_t weight_tap;
  const float* bias;  // or null
  Limits limits;
  float* output;
};

void depthwise_row(const DepthwiseRow& row);

}  // namespace hs::HS_ISA
