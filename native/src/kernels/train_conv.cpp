// Convolution and linear layers in training, forward, with the sums that batch norm needs. Normalisation and activation
// of the input are computed while blocks of rows are loaded, so that only raw convolution outputs are ever stored.
// Windows are multiplied a few of their positions at a time, over as many pixels as the cache holds. Weights lie as the
// optimizer keeps them, (kernel_h, kernel_w, channels / groups, out_channels); panels are packed into the workspace on
// every call, but where so few rows are multiplied that weights are read where they lie.
#include "train_conv.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(ForwardOperands, Buffer, x, coefficients, weights, bias, z, sums, workspace);
HS_FIELDS(ForwardInts, int64_t, batch, height, width, channels, out_height, out_width, out_channels, kernel_h, kernel_w,
          stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, groups, activation, half, x_row, z_row);
HS_FIELDS(ForwardFloats, float, alpha, beta);

// This thread's share of the panels of one group's weights; a barrier must follow. As pairs, two values take the place
// of one float32.
void pack_weights(const float* weights, int64_t row, int64_t inner, int64_t columns, bool pairs, float* packed,
                  int thread, int threads) {
  const Range mine = share(columns, kPanel, thread, threads);
  if (mine.begin >= mine.end) return;
  const int64_t width = mine.end - mine.begin;
  if (pairs) {
    pack_pairs(weights + mine.begin, row, inner, width,
               reinterpret_cast<uint32_t*>(packed) + mine.begin * divide_up(inner, 2));
  } else {
    pack_panels(weights + mine.begin, row, 1, inner, width, packed + mine.begin * inner);
  }
}

// Products with so few rows read the weights once, from where they lie: packing would move them twice more.
constexpr int64_t kFewRows = 32;
constexpr int64_t kFewInner = 32;  // rows of weights that are walked side by side
bool reads_in_place(const ForwardInts& d) {
  return is_product(d) && d.groups == 1 && (d.half != 1 || !kPairProducts) &&
         d.batch * d.out_height * d.out_width <= kFewRows;
}
// The columns behind the last whole panel are packed all the same.
HS_INLINE int64_t whole_panels(int64_t columns) { return columns / kPanel * kPanel; }

// Memory of the workspace, in floats: shared first, then a part for each thread. All parts are multiples of 64 bytes.
struct ForwardPlan {
  int64_t inner, positions, at_once, a_row, columns, rows, block, packed, lines, a, c, ring, per_thread;
  bool by_columns;
};
ForwardPlan plan_forward(const ForwardInts& d, int threads) {
  ForwardPlan p{};
  p.inner = inner_of(d);
  p.columns = d.out_channels / d.groups;
  p.rows = d.batch * d.out_height * d.out_width;
  p.positions = d.kernel_h * d.kernel_w;
  p.at_once = positions_at_once(p.positions, d.channels / d.groups);
  // Few rows, or more weights than input: share the output channels out, and let each thread load all rows for itself.
  p.by_columns = p.columns >= threads * kPanel &&
                 (p.rows < 4 * threads * kTileRows || (p.rows <= p.columns && p.inner * p.columns > (512 << 10)));
  const int64_t inner = p.at_once * (d.channels / d.groups);
  p.block = rows_that_fit(inner + (p.by_columns ? divide_up(p.columns, threads) : p.columns), p.rows);
  p.packed = reads_in_place(d) ? packed_floats(p.inner, p.columns - whole_panels(p.columns))
                               : d.groups * packed_floats(p.inner, p.columns);
  p.a_row = spread(even(d, inner));
  p.a = round_up(p.block * p.a_row, 32);
  p.c = round_up(p.block * p.columns, 16);
  const Window w = window_of(d);
  p.lines = has_window(d) ? ring_lines(w, p.block, p.at_once == p.positions && d.groups == 1) : 0;
  p.ring = round_up(p.lines * line_pixels(w) * d.channels, 32);
  p.per_thread = p.a + p.c + p.ring + round_up(4 * d.out_channels, 16);
  return p;
}

// C = A B + bias for B's columns as they lie, a few rows of B at a time, so that memory is read on and on along each;
// and for those behind the last whole panel, as packed.
void few_rows(Gemm g, const float* weights, int64_t weights_row, const float* packed, Range columns) {
  const int64_t whole = whole_panels(g.columns), inner = g.inner;
  const Range rows{0, g.rows};
  if (columns.end > whole) {
    g.b = packed;
    g.b_panel = 0;
    gemm(g, rows, {whole, g.columns});
  }
  const float* a = g.a;
  g.b_inner = weights_row;
  g.b_panel = kPanel;
  for (int64_t k = 0; k < inner; k += kFewInner) {
    g.a = a + k;
    g.b = weights + k * weights_row;
    g.inner = min_of(kFewInner, inner - k);
    g.accumulate = k > 0;
    if (k > 0) g.epilogue.bias = nullptr;
    gemm(g, rows, {columns.begin, min_of(whole, columns.end)});
  }
}

template <class S>
void forward(const Context& context) {
  using Value = typename S::Value;
  const auto& d = ints_of<ForwardInts>(context);
  const auto& p = operands_of<ForwardOperands>(context);
  const auto& f = floats_of<ForwardFloats>(context);
  const ForwardPlan plan = plan_forward(d, context.threads);
  const Value* x = p.x;
  const float* weights = p.weights;
  const float* bias = p.bias;
  Value* z = p.z;
  float* packed = p.workspace;
  float* mine = packed + plan.packed + context.thread * plan.per_thread;
  auto* a_block = reinterpret_cast<typename Block<S>::Value*>(mine);
  float* c_block = mine + plan.a;
  auto* ring = reinterpret_cast<typename Block<S>::Value*>(c_block + plan.c);
  double* sums = reinterpret_cast<double*>(c_block + plan.c + plan.ring);
  const bool counts = !p.sums.absent();
  constexpr bool pairs = !Block<S>::is_float;
  const OnLoad load_as = on_load(p.coefficients, d.channels, {static_cast<Activation>(d.activation), f.alpha, f.beta});

  const bool in_place = reads_in_place(d);
  const int64_t whole = in_place ? whole_panels(plan.columns) : 0;
  for (int64_t group = 0; !in_place && group < d.groups; ++group)
    pack_weights(weights + group * plan.columns, d.out_channels, plan.inner, plan.columns, pairs,
                 packed + group * packed_floats(plan.inner, plan.columns), context.thread, context.threads);
  if (in_place && context.thread == context.threads - 1)
    pack_panels(weights + whole, d.out_channels, 1, plan.inner, plan.columns - whole, packed);
  for (int64_t i = 0; counts && i < 2 * d.out_channels; ++i) sums[i] = 0.0;
  barrier(context);

  const Range rows = plan.by_columns ? Range{0, plan.rows} : share(plan.rows, 1, context.thread, context.threads);
  const Range columns =
      plan.by_columns ? share(plan.columns, kPanel, context.thread, context.threads) : Range{0, plan.columns};
  const bool direct = S::is_float && is_product(d) && !changes(load_as);
  const int64_t x_row = row_of(d.x_row, d.channels), z_row = row_of(d.z_row, d.out_channels);
  const int64_t width = columns.end - columns.begin, channels = d.channels / d.groups;
  auto lines = input_lines<S, Block<S>>(d, x, load_as, ring, plan.lines);
  for (int64_t begin = rows.begin; begin < rows.end && width > 0; begin += plan.block) {
    const int64_t count = min_of(plan.block, rows.end - begin);
    for (int64_t group = 0; group < d.groups; ++group) {
      const int64_t first = group * plan.columns + columns.begin;
      float* c = S::is_float ? reinterpret_cast<float*>(z) + begin * z_row + group * plan.columns : c_block;
      const int64_t c_row = S::is_float ? z_row : plan.columns;
      const float* b = packed + group * packed_floats(plan.inner, plan.columns);
      for (int64_t at = 0; at < plan.positions; at += plan.at_once) {
        const Range positions{at, min_of(plan.positions, at + plan.at_once)};
        const int64_t inner = (positions.end - at) * channels;
        if (has_window(d)) {
          lines.gather(begin, begin + count, positions, group * channels, channels, a_block, plan.a_row);
          for (int64_t r = 0; pairs && inner % 2 != 0 && r < count; ++r) a_block[r * plan.a_row + inner] = 0;
        } else if (!direct) {
          gather_pixels<S, Block<S>>(d, x, load_as, group, begin, begin + count, a_block, plan.a_row);
        }
        if constexpr (pairs) {
          const int64_t all = even(d, plan.inner) / 2;
          gemm_pairs(a_block, plan.a_row, divide_up(inner, 2),
                     reinterpret_cast<const uint32_t*>(b) + columns.begin * all + at * channels / 2 * kPanel, all,
                     width, count, bias == nullptr || at > 0 ? nullptr : bias + first, at > 0, c + columns.begin,
                     c_row);
          continue;
        }
        Gemm g{};
        g.rows = count;
        g.columns = plan.columns;
        g.inner = inner;
        g.a = direct ? reinterpret_cast<const float*>(x) + begin * x_row : reinterpret_cast<const float*>(a_block);
        g.a_row = direct ? x_row : plan.a_row;
        g.b = b + at * channels * kPanel;
        g.b_inner = kPanel;
        g.b_panel = plan.inner * kPanel;
        g.epilogue.bias = bias == nullptr || at > 0 ? nullptr : bias + group * plan.columns;
        g.c = c;
        g.c_row = c_row;
        g.accumulate = at > 0;
        if (in_place) {
          few_rows(g, weights, d.out_channels, packed, columns);
        } else {
          gemm(g, {0, count}, columns);
        }
      }
      finish_forward<S>(c + columns.begin, c_row, count, width, S::is_float ? nullptr : z + begin * z_row + first,
                        z_row, counts ? sums + first : nullptr, d.out_channels);
    }
  }
  if (!counts) return;
  barrier(context);
  const double* all = reinterpret_cast<const double*>(packed + plan.packed + plan.a + plan.c + plan.ring);
  combine_sums(all, context.threads, 2 * d.out_channels, plan.per_thread / 2, p.sums, context.thread);
}

void forward_kernel(const Context& context) { HS_BY_STORAGE(ints_of<ForwardInts>(context).half, forward, context); }

int64_t forward_workspace(const int64_t* ints, int threads) {
  const ForwardPlan plan = plan_forward(*reinterpret_cast<const ForwardInts*>(ints), threads);
  return (plan.packed + threads * plan.per_thread) * 4;
}

}  // namespace

void add_train_conv(KernelTable& table) {
  add_kernel(table, {"train_conv", ForwardOperands::names, ForwardInts::names, ForwardFloats::names, forward_kernel,
                     forward_workspace, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
