// Element-wise kernels of training: dropout, storage conversion, gradients of pooling.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

// Conversion between storage types: float32 (0), bfloat16 (1) and float16 (2).
HS_FIELDS(CastOperands, Buffer, x, y);
HS_FIELDS(CastInts, int64_t, count, from_half, to_half);

template <class From, class To>
void cast_between(const Context& context) {
  const auto& p = operands_of<CastOperands>(context);
  const Range mine = share(ints_of<CastInts>(context).count, 64, context.thread, context.threads);
  const typename From::Value* x = p.x;
  typename To::Value* y = p.y;
  x += mine.begin;
  y += mine.begin;
  over_vectors(mine.end - mine.begin, HS_EACH { To::write(y + i, lanes, From::read(x + i, lanes)); });
}
template <class From>
void cast_from(const Context& context) {
  const int64_t to = ints_of<CastInts>(context).to_half;
  if (to == 0) return cast_between<From, Float32>(context);
  if (to == 1) return cast_between<From, BFloat16>(context);
  cast_between<From, Float16>(context);
}
void cast(const Context& context) { HS_BY_STORAGE(ints_of<CastInts>(context).from_half, cast_from, context); }

// y = x / (1 - rate) where a random number says so, else 0; `together` values in a row share a number.
HS_FIELDS(DropoutOperands, Buffer, x, random, y);
HS_FIELDS(DropoutInts, int64_t, count, together, layer, half);
HS_FIELDS(DropoutFloats, float, rate);

template <class S>
void dropout(const Context& context) {
  const auto& d = ints_of<DropoutInts>(context);
  const auto& p = operands_of<DropoutOperands>(context);
  const DropoutKey key = dropout_key(p.random, d.layer, floats_of<DropoutFloats>(context).rate);
  const typename S::Value* x = p.x;
  typename S::Value* y = p.y;
  const Range mine = share(d.count, 64, context.thread, context.threads);
  if (d.together == 1) {
    over_vectors(
        mine.end - mine.begin, HS_EACH {
          const int64_t at = mine.begin + i;
          S::write(y + at, lanes, S::read(x + at, lanes) * keep(key, at));
        });
    return;
  }
  for (int64_t at = mine.begin; at < mine.end;) {
    const int64_t group = at / d.together, end = min_of(mine.end, (group + 1) * d.together);
    const float factor = kept(key, group);
    over_vectors(
        end - at, HS_EACH {
          S::write(y + at + i, lanes, factor == 0.0f ? zero() : S::read(x + at + i, lanes) * broadcast(factor));
        });
    at = end;
  }
}
void dropout_kernel(const Context& context) { HS_BY_STORAGE(ints_of<DropoutInts>(context).half, dropout, context); }

// Mean over all pixels of an image, and its gradient.
HS_FIELDS(MeanOperands, Buffer, x, y);
HS_FIELDS(MeanInts, int64_t, batch, rows, channels, half);

template <class S>
void image_mean(const Context& context) {
  const auto& d = ints_of<MeanInts>(context);
  const auto& p = operands_of<MeanOperands>(context);
  const typename S::Value* x = p.x;
  typename S::Value* y = p.y;
  const Vec scale = broadcast(1.0f / static_cast<float>(d.rows));
  const int64_t panels = divide_up(d.channels, 64);
  const Range mine = share(d.batch * panels, 1, context.thread, context.threads);
  for (int64_t item = mine.begin; item < mine.end; ++item) {
    const int64_t n = item / panels, first = item % panels * 64;
    over_vectors(
        min_of(64, d.channels - first), HS_EACH {
          Vec sum = zero();
          for (int64_t r = 0; r < d.rows; ++r) sum += S::read(x + (n * d.rows + r) * d.channels + first + i, lanes);
          S::write(y + n * d.channels + first + i, lanes, sum * scale);
        });
  }
}
void image_mean_kernel(const Context& context) { HS_BY_STORAGE(ints_of<MeanInts>(context).half, image_mean, context); }

HS_FIELDS(MeanGradientOperands, Buffer, dy, dx);
template <class S>
void image_mean_gradient(const Context& context) {
  const auto& d = ints_of<MeanInts>(context);
  const auto& p = operands_of<MeanGradientOperands>(context);
  const typename S::Value* dy = p.dy;
  typename S::Value* dx = p.dx;
  const Vec scale = broadcast(1.0f / static_cast<float>(d.rows));
  const Range mine = share(d.batch * d.rows, 1, context.thread, context.threads);
  for (int64_t r = mine.begin; r < mine.end; ++r)
    over_vectors(
        d.channels, HS_EACH {
          S::write(dx + r * d.channels + i, lanes, S::read(dy + r / d.rows * d.channels + i, lanes) * scale);
        });
}
void image_mean_gradient_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<MeanInts>(context).half, image_mean_gradient, context);
}

// Gradient of a pooling window. Threads share images and panels of channels, so that no two write the same place; sums
// are float32, in dx itself or, where dx is bfloat16, in the workspace first. The maximum's gradient goes to the first
// of equal values of a window, which is found again from the input.
HS_FIELDS(PoolOperands, Buffer, x, dy, dx, workspace);
HS_FIELDS(PoolInts, int64_t, batch, height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h,
          stride_w, pad_top, pad_left, pad_bottom, pad_right, average, count_include_pad, half);
constexpr int64_t kPoolPanel = 32;

// dx of one window, `count` channels: `x` is the window's corner inside the image, `to` the same place of the sums.
template <class S>
void max_window(const PoolInts& d, int64_t rows, int64_t columns, const typename S::Value* x,
                const typename S::Value* dy, float* to, int64_t to_pixel, int64_t count) {
  over_vectors(
      count, HS_EACH {
        Vec most = S::read(x + i, lanes);
        IntVec best{};
        for (int64_t at = 1; at < rows * columns; ++at) {
          const Vec v = S::read(x + (at / columns * d.width + at % columns) * d.channels + i, lanes);
          const IntVec larger = v > most;
          most = select(larger, v, most);
          best = larger ? broadcast_int(static_cast<int32_t>(at)) : best;
        }
        const Vec g = S::read(dy + i, lanes);
        for (int64_t at = 0; at < rows * columns; ++at) {
          float* sum = to + (at / columns * d.width + at % columns) * to_pixel + i;
          const IntVec here = best == broadcast_int(static_cast<int32_t>(at));
          Float32::write(sum, lanes, Float32::read(sum, lanes) + select(here, g, zero()));
        }
      });
}
template <class S>
void average_window(const PoolInts& d, int64_t rows, int64_t columns, Vec scale, const typename S::Value* dy, float* to,
                    int64_t to_pixel, int64_t count) {
  over_vectors(
      count, HS_EACH {
        const Vec g = S::read(dy + i, lanes) * scale;
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t column = 0; column < columns; ++column) {
            float* sum = to + (row * d.width + column) * to_pixel + i;
            Float32::write(sum, lanes, Float32::read(sum, lanes) + g);
          }
      });
}

template <class S>
void pool_gradient(const Context& context) {
  const auto& d = ints_of<PoolInts>(context);
  const auto& p = operands_of<PoolOperands>(context);
  const typename S::Value *x = p.x, *dy = p.dy;
  typename S::Value* dx = p.dx;
  const int64_t panels = divide_up(d.channels, kPoolPanel), pixels = d.height * d.width;
  const int64_t to_pixel = S::is_float ? d.channels : kPoolPanel;
  const Range mine = share(d.batch * panels, 1, context.thread, context.threads);
  for (int64_t item = mine.begin; item < mine.end; ++item) {
    const int64_t n = item / panels, first = item % panels * kPoolPanel, count = min_of(kPoolPanel, d.channels - first);
    const int64_t origin = n * pixels * d.channels + first;
    float* sums = S::is_float ? static_cast<float*>(p.dx) + origin
                              : static_cast<float*>(p.workspace) + context.thread * pixels * kPoolPanel;
    for (int64_t pixel = 0; pixel < pixels; ++pixel)
      over_vectors(count, HS_EACH { Float32::write(sums + pixel * to_pixel + i, lanes, zero()); });
    for (int64_t oy = 0; oy < d.out_height; ++oy)
      for (int64_t ox = 0; ox < d.out_width; ++ox) {
        const int64_t top = oy * d.stride_h - d.pad_top, left = ox * d.stride_w - d.pad_left;
        const int64_t y0 = max_of(top, 0), y1 = min_of(top + d.kernel_h, d.height);
        const int64_t x0 = max_of(left, 0), x1 = min_of(left + d.kernel_w, d.width);
        if (y1 <= y0 || x1 <= x0) continue;
        const typename S::Value* from = dy + ((n * d.out_height + oy) * d.out_width + ox) * d.channels + first;
        const int64_t corner = y0 * d.width + x0;
        float* to = sums + corner * to_pixel;
        if (d.average == 0) {
          max_window<S>(d, y1 - y0, x1 - x0, x + origin + corner * d.channels, from, to, to_pixel, count);
          continue;
        }
        // Padding counts as far as the padded image reaches; a window that hangs over it (ceil mode) is cut there.
        const int64_t bottom = min_of(top + d.kernel_h, d.height + d.pad_bottom);
        const int64_t right = min_of(left + d.kernel_w, d.width + d.pad_right);
        const int64_t area = d.count_include_pad != 0 ? (bottom - top) * (right - left) : (y1 - y0) * (x1 - x0);
        const Vec scale = broadcast(1.0f / static_cast<float>(max_of(1, area)));
        average_window<S>(d, y1 - y0, x1 - x0, scale, from, to, to_pixel, count);
      }
    if constexpr (!S::is_float)
      for (int64_t pixel = 0; pixel < pixels; ++pixel)
        over_vectors(
            count, HS_EACH {
              S::write(dx + origin + pixel * d.channels + i, lanes, Float32::read(sums + pixel * to_pixel + i, lanes));
            });
  }
}
void pool_gradient_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<PoolInts>(context).half, pool_gradient, context);
}
int64_t pool_gradient_workspace(const int64_t* ints, int threads) {
  const auto& d = *reinterpret_cast<const PoolInts*>(ints);
  return d.half != 0 ? threads * d.height * d.width * kPoolPanel * 4 : 0;
}

// dx of y = softmax(x) or log_softmax(x), from y and dy.
HS_FIELDS(SoftmaxOperands, Buffer, y, dy, dx);
HS_FIELDS(SoftmaxInts, int64_t, rows, channels, log);

void softmax_gradient(const Context& context) {
  const auto& d = ints_of<SoftmaxInts>(context);
  const auto& p = operands_of<SoftmaxOperands>(context);
  const Range mine = share(d.rows, 1, context.thread, context.threads);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const float* y = static_cast<const float*>(p.y) + r * d.channels;
    const float* dy = static_cast<const float*>(p.dy) + r * d.channels;
    float* dx = static_cast<float*>(p.dx) + r * d.channels;
    Vec sums = zero();
    over_vectors(
        d.channels, HS_EACH {
          const Vec g = Float32::read(dy + i, lanes);
          sums += d.log != 0 ? g : g * Float32::read(y + i, lanes);
        });
    const Vec sum = broadcast(sum_of(sums));
    over_vectors(
        d.channels, HS_EACH {
          const Vec g = Float32::read(dy + i, lanes), v = Float32::read(y + i, lanes);
          Float32::write(dx + i, lanes, d.log != 0 ? g - exp_of(v) * sum : v * (g - sum));
        });
  }
}

// y = a + b, in either storage.
HS_FIELDS(AddOperands, Buffer, a, b, y);
HS_FIELDS(AddInts, int64_t, rows, channels, half, a_row, b_row);
template <class S>
void add_gradients(const Context& context) {
  const auto& d = ints_of<AddInts>(context);
  const auto& p = operands_of<AddOperands>(context);
  const typename S::Value *a = p.a, *b = p.b;
  typename S::Value* y = p.y;
  const int64_t a_row = row_of(d.a_row, d.channels), b_row = row_of(d.b_row, d.channels);
  const bool one_run = a_row == d.channels && b_row == d.channels;
  const int64_t rows = one_run ? 1 : d.rows, width = one_run ? d.rows * d.channels : d.channels;
  const Range lines = one_run ? Range{0, 1} : share(rows, 1, context.thread, context.threads);
  const Range part = one_run ? share(width, 64, context.thread, context.threads) : Range{0, width};
  for (int64_t r = lines.begin; r < lines.end; ++r)
    over_vectors(
        part.end - part.begin, HS_EACH {
          const int64_t at = part.begin + i;
          S::write(y + r * width + at, lanes, S::read(a + r * a_row + at, lanes) + S::read(b + r * b_row + at, lanes));
        });
}
void add_gradients_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<AddInts>(context).half, add_gradients, context);
}

}  // namespace

void add_train_elementwise(KernelTable& table) {
  const auto add = [&](const char* name, const char* operands, const char* ints, const char* floats,
                       void (*run)(const Context&)) {
    add_kernel(table, {name, operands, ints, floats, run, nullptr, nullptr, nullptr});
  };
  add("cast", CastOperands::names, CastInts::names, "", cast);
  add("dropout", DropoutOperands::names, DropoutInts::names, DropoutFloats::names, dropout_kernel);
  add("image_mean", MeanOperands::names, MeanInts::names, "", image_mean_kernel);
  add("image_mean_gradient", MeanGradientOperands::names, MeanInts::names, "", image_mean_gradient_kernel);
  add_kernel(table, {"pool_gradient", PoolOperands::names, PoolInts::names, "", pool_gradient_kernel,
                     pool_gradient_workspace, nullptr, nullptr});
  add("softmax_gradient", SoftmaxOperands::names, SoftmaxInts::names, "", softmax_gradient);
  add("add_gradients", AddOperands::names, AddInts::names, "", add_gradients_kernel);
}

}  // namespace hs::HS_ISA
