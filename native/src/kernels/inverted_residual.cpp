// A whole inverted-residual block in one pass: [1x1 expansion] -> depthwise -> 1x1 projection (+ residual).
// The hidden tensors are the largest of a mobile network and would cross memory four times; here a few rows of them
// live in a ring in the second-level cache: rows are expanded as the window moves down, consumed by the depthwise
// convolution at once, and projected before they are cold. Without expansion weights the depthwise convolution reads
// the input itself: a depthwise-separable block. Weights: `expand_weights` and `project_weights` as packed for a 1x1
// `conv2d`, `depthwise_weights` as for `depthwise`.
#include "depthwise.hpp"
#include "gemm.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, input, expand_weights, expand_bias, depthwise_weights, depthwise_bias, project_weights,
          project_bias, residual, output, workspace);
HS_FIELDS(Ints, int64_t, batch, height, width, channels, hidden, out_height, out_width, out_channels, kernel_h,
          kernel_w, stride_h, stride_w, pad_top, pad_left, expands, expand_activation, depthwise_activation, activation,
          residual_after);
HS_FIELDS(Floats, float, expand_alpha, expand_beta, depthwise_alpha, depthwise_beta, alpha, beta);

// What a thread keeps in its cache, beside the weights.
constexpr int64_t kCacheBytes = 448 << 10;

struct Plan {
  int64_t group;      // output rows made at a time
  int64_t ring_rows;  // hidden rows kept
  int64_t ring_floats, row_floats, total_floats;
};

Plan plan_of(const Ints& d) {
  const int64_t hidden_row = d.width * d.hidden, out_row = d.out_width * d.hidden;
  Plan plan{};
  for (plan.group = 1;; ++plan.group) {
    plan.ring_rows = d.expands != 0 ? d.kernel_h + (plan.group - 1) * d.stride_h : 0;
    const int64_t next = (d.expands != 0 ? plan.ring_rows + d.stride_h : 0) * hidden_row + (plan.group + 1) * out_row;
    if (plan.group >= d.out_height || next * 4 > kCacheBytes) break;
  }
  if (plan.ring_rows > d.height) plan.ring_rows = d.height;
  plan.ring_floats = round_up(plan.ring_rows * hidden_row, 16);
  plan.row_floats = round_up(plan.group * out_row, 16);
  plan.total_floats = plan.ring_floats + plan.row_floats;
  return plan;
}

struct Block {
  const Ints& d;
  const Floats& f;
  const Operands& p;
  Plan plan;
  float* ring;
  float* depthwise;

  // Hidden rows [begin, end) of an image into the ring: row y stands at y % ring_rows.
  void expand(int64_t image, int64_t begin, int64_t end) const {
    while (begin < end) {
      const int64_t slot = begin % plan.ring_rows;
      const int64_t rows = min_of(end - begin, plan.ring_rows - slot);  // up to where the ring turns
      Gemm g{};
      g.rows = rows * d.width;
      g.columns = d.hidden;
      g.inner = d.channels;
      g.a = static_cast<const float*>(p.input) + (image * d.height + begin) * d.width * d.channels;
      g.a_row = d.channels;
      g.b = p.expand_weights;
      g.b_inner = kPanel;
      g.b_panel = d.channels * kPanel;
      g.c = ring + slot * d.width * d.hidden;
      g.c_row = d.hidden;
      g.epilogue.bias = p.expand_bias;
      g.epilogue.activation = {static_cast<Activation>(d.expand_activation), f.expand_alpha, f.expand_beta};
      gemm(g, {0, g.rows}, {0, g.columns});
      begin += rows;
    }
  }

  void filter(int64_t image, int64_t y, float* output) const {
    const float* rows[kMaxWindowRows];
    const float* input = static_cast<const float*>(p.input) + image * d.height * d.width * d.channels;
    for (int64_t i = 0; i < d.kernel_h; ++i) {
      const int64_t from = y * d.stride_h - d.pad_top + i;
      rows[i] = from < 0 || from >= d.height ? nullptr
                : d.expands != 0             ? ring + from % plan.ring_rows * d.width * d.hidden
                                             : input + from * d.width * d.hidden;
    }
    const ActivationSpec activation{static_cast<Activation>(d.depthwise_activation), f.depthwise_alpha,
                                    f.depthwise_beta};
    DepthwiseRow r{};
    r.rows = rows;
    r.kernel_h = d.kernel_h;
    r.kernel_w = d.kernel_w;
    r.stride = d.stride_w;
    r.dilation = 1;
    r.pad_left = d.pad_left;
    r.width = d.width;
    r.out_width = d.out_width;
    r.channels = r.pixel = r.out_pixel = r.weight_tap = d.hidden;
    r.weights = p.depthwise_weights;
    r.bias = p.depthwise_bias;
    r.limits = limits_of(activation);
    r.output = output;
    depthwise_row(r);
    if (!is_clip(activation.kind)) activate_values(output, output, d.out_width * d.hidden, activation);
  }

  void project(int64_t row, int64_t count) const {
    const int64_t start = row * d.out_width * d.out_channels;
    Gemm g{};
    g.rows = count * d.out_width;
    g.columns = d.out_channels;
    g.inner = d.hidden;
    g.a = depthwise;
    g.a_row = d.hidden;
    g.b = p.project_weights;
    g.b_inner = kPanel;
    g.b_panel = d.hidden * kPanel;
    g.c = static_cast<float*>(p.output) + start;
    g.c_row = d.out_channels;
    g.epilogue = {p.project_bias,
                  p.residual.absent() ? nullptr : static_cast<const float*>(p.residual) + start,
                  d.out_channels,
                  d.residual_after != 0,
                  {static_cast<Activation>(d.activation), f.alpha, f.beta}};
    gemm(g, {0, g.rows}, {0, g.columns});
  }
};

void inverted_residual(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const Plan plan = plan_of(d);
  float* workspace = static_cast<float*>(p.workspace) + context.thread * plan.total_floats;
  const Block block{d, floats_of<Floats>(context), p, plan, workspace, workspace + plan.ring_floats};
  const Range mine = share(d.batch * d.out_height, 1, context.thread, context.threads);
  for (int64_t line = mine.begin; line < mine.end;) {
    const int64_t image = line / d.out_height;
    const int64_t image_end = min_of(mine.end, (image + 1) * d.out_height);
    int64_t expanded = -1;  // hidden rows of this image below this are in the ring, or no longer needed
    for (; line < image_end; line += plan.group) {
      const int64_t count = min_of(plan.group, image_end - line);
      const int64_t y = line - image * d.out_height;
      if (d.expands != 0) {
        const int64_t first = max_of(0, y * d.stride_h - d.pad_top);
        const int64_t last = min_of(d.height, (y + count - 1) * d.stride_h - d.pad_top + d.kernel_h);
        block.expand(image, max_of(first, expanded), last);
        expanded = max_of(expanded, last);
      }
      for (int64_t i = 0; i < count; ++i) block.filter(image, y + i, block.depthwise + i * d.out_width * d.hidden);
      block.project(line, count);
    }
    line = image_end;
  }
}

int64_t workspace_bytes(const int64_t* ints, int threads) {
  return plan_of(*reinterpret_cast<const Ints*>(ints)).total_floats * 4 * threads;
}

}  // namespace

void add_inverted_residual(KernelTable& table) {
  add_kernel(table, {"inverted_residual", Operands::names, Ints::names, Floats::names, inverted_residual,
                     workspace_bytes, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
