// Images of another size, nearest or linear, and the gradient. Stored as float32 or, where `half` is 1, bfloat16; sums
// are float32.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(ResizeOperands, Buffer, x, y);
HS_FIELDS(ResizeGradientOperands, Buffer, dy, dx, workspace);
// (height, width) is the smaller or larger image that comes in, (out_height, out_width) what it becomes; `coordinates`
// and `rounding` are the enumerations below, `linear` 0 is nearest.
HS_FIELDS(ResizeInts, int64_t, batch, height, width, channels, out_height, out_width, linear, coordinates, rounding,
          half);
HS_FIELDS(ResizeFloats, float, scale_h, scale_w);  // of the coordinates, where they are not those of the sizes; or 0

enum Coordinates : int64_t { half_pixel, align_corners, asymmetric };
enum Rounding : int64_t { floor, prefer_floor, prefer_ceil, ceil };
// What rounding errors move a coordinate by at most: those that follow from the sizes, and should be whole numbers or
// halves, then are.
constexpr double kSlack = 1e-6;

// What one output line or column is made of: x[low] * (1 - weight) + x[high] * weight.
struct Taps {
  int64_t low, high;
  float weight;
};

int64_t whole_below(double v) {
  const int64_t cut = static_cast<int64_t>(v);
  return cut - (static_cast<double>(cut) > v ? 1 : 0);
}

class Axis {
 public:
  Axis(const ResizeInts& d, int64_t size, int64_t out, float scale)
      : size_(size),
        linear_(d.linear != 0),
        aligned_(d.coordinates == align_corners),
        rounding_(d.rounding),
        middle_(d.coordinates == half_pixel ? 0.5f : 0.0f),
        scale_(aligned_ ? 0.0f : scale) {
    const double from = static_cast<double>(size), to = static_cast<double>(out);
    step_ = from / to;
    if (aligned_) step_ = out > 1 ? (from - 1.0) / (to - 1.0) : 0.0;
  }

  // A scale that is given is no exact ratio: runtimes divide by it in float32, and so does this.
  double coordinate(int64_t at) const {
    if (scale_ > 0.0f) return static_cast<double>((static_cast<float>(at) + middle_) / scale_ - middle_);
    return (static_cast<double>(at) + static_cast<double>(middle_)) * step_ - static_cast<double>(middle_);
  }

  Taps operator()(int64_t at) const {
    const double exact = coordinate(at);
    const double slack = scale_ > 0.0f ? 0.0 : kSlack;
    const double last = static_cast<double>(size_ - 1);
    if (!linear_) {
      int64_t nearest = 0;
      if (rounding_ == floor) nearest = whole_below(exact + slack);
      if (rounding_ == prefer_ceil) nearest = whole_below(exact + 0.5 + slack);
      if (rounding_ == prefer_floor) nearest = -whole_below(0.5 - exact + slack);
      if (rounding_ == ceil) nearest = -whole_below(-exact + slack);
      nearest = nearest < 0 ? 0 : min_of(nearest, size_ - 1);
      return {nearest, nearest, 0.0f};
    }
    const double inside = exact < 0.0 ? 0.0 : exact > last ? last : exact;
    const int64_t low = whole_below(inside);
    return {low, min_of(low + 1, size_ - 1), static_cast<float>(inside - static_cast<double>(low))};
  }

 private:
  int64_t size_;
  bool linear_, aligned_;
  int64_t rounding_;
  float middle_, scale_;
  double step_;
};

template <class S>
void resize(const Context& context) {
  const auto& d = ints_of<ResizeInts>(context);
  const auto& p = operands_of<ResizeOperands>(context);
  const auto& f = floats_of<ResizeFloats>(context);
  const typename S::Value* x = p.x;
  typename S::Value* y = p.y;
  const Axis down(d, d.height, d.out_height, f.scale_h), across(d, d.width, d.out_width, f.scale_w);
  const int64_t row = d.width * d.channels;
  const Range mine = share(d.batch * d.out_height, 1, context.thread, context.threads);
  for (int64_t line = mine.begin; line < mine.end; ++line) {
    const Taps v = down(line % d.out_height);
    const typename S::Value* image = x + line / d.out_height * d.height * row;
    const typename S::Value *upper = image + v.low * row, *lower = image + v.high * row;
    typename S::Value* to = y + line * d.out_width * d.channels;
    const Vec below = broadcast(v.weight);
    for (int64_t column = 0; column < d.out_width; ++column, to += d.channels) {
      const Taps h = across(column);
      const int64_t left = h.low * d.channels, right = h.high * d.channels;
      if (!d.linear) {
        __builtin_memcpy(to, upper + left, static_cast<size_t>(d.channels) * sizeof *to);
        continue;
      }
      const Vec beside = broadcast(h.weight);
      over_vectors(
          d.channels, HS_EACH {
            const Vec a = S::read(upper + left + i, lanes), b = S::read(upper + right + i, lanes);
            const Vec c = S::read(lower + left + i, lanes), e = S::read(lower + right + i, lanes);
            const Vec top = a + (b - a) * beside, bottom = c + (e - c) * beside;
            S::write(to + i, lanes, top + (bottom - top) * below);
          });
    }
  }
}
void resize_kernel(const Context& context) { HS_BY_STORAGE(ints_of<ResizeInts>(context).half, resize, context); }

// A line of dx in float32 for each thread.
int64_t resize_line(const ResizeInts& d) { return round_up(d.width * d.channels, 16) + kWidth; }
int64_t resize_workspace(const int64_t* ints, int threads) {
  return threads * resize_line(*reinterpret_cast<const ResizeInts*>(ints)) * 4;
}

// Each line of dx collects from the lines of dy that read it, which are neighbours, so that no two threads write one.
template <class S>
void resize_gradient(const Context& context) {
  const auto& d = ints_of<ResizeInts>(context);
  const auto& p = operands_of<ResizeGradientOperands>(context);
  const auto& f = floats_of<ResizeFloats>(context);
  const typename S::Value* dy = p.dy;
  typename S::Value* dx = p.dx;
  const Axis down(d, d.height, d.out_height, f.scale_h), across(d, d.width, d.out_width, f.scale_w);
  const int64_t row = d.width * d.channels, out_row = d.out_width * d.channels;
  float* sums = static_cast<float*>(p.workspace) + context.thread * resize_line(d);
  const Range mine = share(d.batch * d.height, 1, context.thread, context.threads);
  for (int64_t line = mine.begin; line < mine.end; ++line) {
    const int64_t image = line / d.height, at = line % d.height;
    over_vectors(row, HS_EACH { Float32::write(sums + i, lanes, zero()); });
    for (int64_t out = 0; out < d.out_height; ++out) {
      const Taps v = down(out);
      if (v.low > at) break;
      const float share_of = (v.low == at ? 1.0f - v.weight : 0.0f) + (v.high == at ? v.weight : 0.0f);
      if (share_of == 0.0f) continue;
      const typename S::Value* from = dy + (image * d.out_height + out) * out_row;
      for (int64_t column = 0; column < d.out_width; ++column, from += d.channels) {
        const Taps h = across(column);
        float *left = sums + h.low * d.channels, *right = sums + h.high * d.channels;
        const Vec beside = broadcast(share_of * h.weight), here = broadcast(share_of * (1.0f - h.weight));
        over_vectors(
            d.channels, HS_EACH {
              const Vec g = S::read(from + i, lanes);
              Float32::write(left + i, lanes, Float32::read(left + i, lanes) + g * here);
              if (d.linear) Float32::write(right + i, lanes, Float32::read(right + i, lanes) + g * beside);
            });
      }
    }
    typename S::Value* to = dx + line * row;
    over_vectors(row, HS_EACH { S::write(to + i, lanes, Float32::read(sums + i, lanes)); });
  }
}
void resize_gradient_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<ResizeInts>(context).half, resize_gradient, context);
}

}  // namespace

void add_resize(KernelTable& table) {
  add_kernel(table, {"resize", ResizeOperands::names, ResizeInts::names, ResizeFloats::names, resize_kernel, nullptr,
                     nullptr, nullptr});
  add_kernel(table, {"resize_gradient", ResizeGradientOperands::names, ResizeInts::names, ResizeFloats::names,
                     resize_gradient_kernel, resize_workspace, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
