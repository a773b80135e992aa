// What networks do between channels beside convolving them: shuffling, gates, local response normalisation. And nearest
// upsampling. All store float32 or, where `half` is 1, bfloat16; sums are float32.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

// y[i * groups + g] = x[g * per_group + i] in each pixel: channels of a (groups, per_group) matrix, transposed.
HS_FIELDS(ShuffleOperands, Buffer, x, y);
HS_FIELDS(ShuffleInts, int64_t, rows, groups, per_group, element_bytes);

template <class T, int groups>
void interleave_row(const T* x, T* y, int64_t per_group) {
  for (int64_t i = 0; i < per_group; ++i)
    for (int g = 0; g < groups; ++g) y[i * groups + g] = x[g * per_group + i];
}
template <class T, int per_group>
void separate_row(const T* x, T* y, int64_t groups) {
  for (int i = 0; i < per_group; ++i)
    for (int64_t g = 0; g < groups; ++g) y[i * groups + g] = x[g * per_group + i];
}
template <class T>
void transpose_row(const T* x, T* y, int64_t groups, int64_t per_group) {
  for (int64_t i = 0; i < per_group; ++i)
    for (int64_t g = 0; g < groups; ++g) y[i * groups + g] = x[g * per_group + i];
}

template <class T>
void shuffle_rows(const ShuffleInts& d, const T* x, T* y, Range rows) {
  const int64_t channels = d.groups * d.per_group;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const T* from = x + r * channels;
    T* to = y + r * channels;
    if (d.groups == 2) {
      interleave_row<T, 2>(from, to, d.per_group);
    } else if (d.groups == 3) {
      interleave_row<T, 3>(from, to, d.per_group);
    } else if (d.groups == 4) {
      interleave_row<T, 4>(from, to, d.per_group);
    } else if (d.groups == 8) {
      interleave_row<T, 8>(from, to, d.per_group);
    } else if (d.per_group == 2) {
      separate_row<T, 2>(from, to, d.groups);
    } else if (d.per_group == 3) {
      separate_row<T, 3>(from, to, d.groups);
    } else if (d.per_group == 4) {
      separate_row<T, 4>(from, to, d.groups);
    } else if (d.per_group == 8) {
      separate_row<T, 8>(from, to, d.groups);
    } else {
      transpose_row(from, to, d.groups, d.per_group);
    }
  }
}

void channel_shuffle(const Context& context) {
  const auto& d = ints_of<ShuffleInts>(context);
  const auto& p = operands_of<ShuffleOperands>(context);
  const Range mine = share(d.rows, 1, context.thread, context.threads);
  if (d.element_bytes == 4)
    shuffle_rows<uint32_t>(d, p.x, p.y, mine);
  else
    shuffle_rows<uint16_t>(d, p.x, p.y, mine);
}

// Gradients of y = x * gate, the gate one number for each channel of an image: dx = dy * gate, and over all pixels
// dgate = sum of dy * x. Either may be absent. dx may be dy or x.
HS_FIELDS(GateOperands, Buffer, x, gate, dy, dx, dgate);
HS_FIELDS(GateInts, int64_t, batch, rows, channels, half);
constexpr int64_t kGatePanel = 64;

template <class S>
void gate_gradient(const Context& context) {
  const auto& d = ints_of<GateInts>(context);
  const auto& p = operands_of<GateOperands>(context);
  const typename S::Value *x = p.x, *gate = p.gate, *dy = p.dy;
  typename S::Value *dx = p.dx, *dgate = p.dgate;
  const int64_t panels = divide_up(d.channels, kGatePanel);
  const Range mine = share(d.batch * panels, 1, context.thread, context.threads);
  for (int64_t item = mine.begin; item < mine.end; ++item) {
    const int64_t n = item / panels, first = item % panels * kGatePanel;
    const int64_t count = min_of(kGatePanel, d.channels - first);
    const int64_t origin = n * d.rows * d.channels + first;
    float sums[kGatePanel] = {};
    // Runs of pixels that stay in the cache while each vector of channels passes over them; their sums are added up.
    for (int64_t begin = 0; begin < d.rows; begin += 64) {
      const int64_t end = min_of(d.rows, begin + 64);
      over_vectors(
          count, HS_EACH {
            const Vec factor = S::read(gate + n * d.channels + first + i, lanes);
            Vec sum = zero();
            for (int64_t r = begin; r < end; ++r) {
              const int64_t at = origin + r * d.channels + i;
              const Vec g = S::read(dy + at, lanes);
              if (dgate != nullptr) sum += g * S::read(x + at, lanes);
              if (dx != nullptr) S::write(dx + at, lanes, g * factor);
            }
            Float32::write(sums + i, lanes, Float32::read(sums + i, lanes) + sum);
          });
    }
    if (dgate != nullptr)
      over_vectors(
          count, HS_EACH { S::write(dgate + n * d.channels + first + i, lanes, Float32::read(sums + i, lanes)); });
  }
}
void gate_gradient_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<GateInts>(context).half, gate_gradient, context);
}

// y = x / s^beta, s = bias + alpha / size * (sum of x^2 over `size` neighbouring channels); and its gradient
//   dx[i] = dy[i] s[i]^-beta - 2 alpha beta / size * x[i] * (sum of dy y / s over the channels in whose windows i
//   lies).
HS_FIELDS(ResponseOperands, Buffer, x, dy, y, workspace);  // y is dx in the gradient
HS_FIELDS(ResponseInts, int64_t, rows, channels, size, half);
HS_FIELDS(ResponseFloats, float, alpha, beta, bias);

// A row of floats with `size` zeros on both sides; twice for each thread.
int64_t response_row(const ResponseInts& d) { return round_up(d.channels + 2 * d.size, 16) + kWidth; }
int64_t response_workspace(const int64_t* ints, int threads) {
  return threads * 2 * response_row(*reinterpret_cast<const ResponseInts*>(ints)) * 4;
}
// The sum of `size` neighbours from `padded`, `before` of them to the left.
HS_INLINE Vec neighbours(const float* padded, int64_t size, int64_t before, int64_t lanes) {
  Vec sum = zero();
  for (int64_t k = 0; k < size; ++k) sum += Float32::read(padded + k - before, lanes);
  return sum;
}

template <class S>
void local_response_norm(const Context& context) {
  const auto& d = ints_of<ResponseInts>(context);
  const auto& p = operands_of<ResponseOperands>(context);
  const auto& f = floats_of<ResponseFloats>(context);
  const typename S::Value *x = p.x, *dy = p.dy;
  typename S::Value* y = p.y;
  const Vec scale = broadcast(f.alpha / static_cast<float>(d.size)), bias = broadcast(f.bias);
  const Vec slope = broadcast(-2.0f * f.alpha * f.beta / static_cast<float>(d.size)), power = broadcast(-f.beta);
  const int64_t before = (d.size - 1) / 2, after = d.size - 1 - before, row = response_row(d);
  float* squares = static_cast<float*>(p.workspace) + context.thread * 2 * row;
  float* shares = squares + row;
  over_vectors(2 * row, HS_EACH { Float32::write(squares + i, lanes, zero()); });
  squares += d.size, shares += d.size;
  const Range mine = share(d.rows, 1, context.thread, context.threads);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const int64_t at = r * d.channels;
    over_vectors(
        d.channels, HS_EACH {
          const Vec v = S::read(x + at + i, lanes);
          Float32::write(squares + i, lanes, v * v);
        });
    if (dy == nullptr) {
      over_vectors(
          d.channels, HS_EACH {
            const Vec s = neighbours(squares + i, d.size, before, lanes) * scale + bias;
            S::write(y + at + i, lanes, S::read(x + at + i, lanes) * exp_of(log_of(s) * power));
          });
      continue;
    }
    over_vectors(
        d.channels, HS_EACH {
          const Vec s = neighbours(squares + i, d.size, before, lanes) * scale + bias;
          const Vec g = S::read(dy + at + i, lanes) * exp_of(log_of(s) * power);
          Float32::write(shares + i, lanes, g * S::read(x + at + i, lanes) / s);
        });
    over_vectors(
        d.channels, HS_EACH {
          const Vec s = neighbours(squares + i, d.size, before, lanes) * scale + bias;
          const Vec g = S::read(dy + at + i, lanes) * exp_of(log_of(s) * power);
          const Vec of_others = neighbours(shares + i, d.size, after, lanes);
          S::write(y + at + i, lanes, g + slope * S::read(x + at + i, lanes) * of_others);
        });
  }
}
void local_response_norm_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<ResponseInts>(context).half, local_response_norm, context);
}

// Each pixel becomes factor_h x factor_w equal ones; the gradient adds them up.
HS_FIELDS(UpsampleOperands, Buffer, x, y);
HS_FIELDS(UpsampleInts, int64_t, batch, height, width, channels, factor_h, factor_w, half);

template <class S>
void upsample_nearest(const Context& context) {
  const auto& d = ints_of<UpsampleInts>(context);
  const auto& p = operands_of<UpsampleOperands>(context);
  const typename S::Value* x = p.x;
  typename S::Value* y = p.y;
  const int64_t row = d.width * d.factor_w * d.channels;
  const Range mine = share(d.batch * d.height, 1, context.thread, context.threads);
  for (int64_t line = mine.begin; line < mine.end; ++line) {
    typename S::Value* to = y + line * d.factor_h * row;
    for (int64_t column = 0; column < d.width; ++column) {
      const typename S::Value* from = x + (line * d.width + column) * d.channels;
      for (int64_t k = 0; k < d.factor_w; ++k, to += d.channels)
        __builtin_memcpy(to, from, static_cast<size_t>(d.channels) * sizeof *to);
    }
    for (int64_t k = 1; k < d.factor_h; ++k, to += row)
      __builtin_memcpy(to, to - row * k, static_cast<size_t>(row) * sizeof *to);
  }
}
void upsample_nearest_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<UpsampleInts>(context).half, upsample_nearest, context);
}

HS_FIELDS(UpsampleGradientOperands, Buffer, dy, dx);
template <class S>
void upsample_nearest_gradient(const Context& context) {
  const auto& d = ints_of<UpsampleInts>(context);
  const auto& p = operands_of<UpsampleGradientOperands>(context);
  const typename S::Value* dy = p.dy;
  typename S::Value* dx = p.dx;
  const int64_t row = d.width * d.factor_w * d.channels;
  const Range mine = share(d.batch * d.height, 1, context.thread, context.threads);
  for (int64_t line = mine.begin; line < mine.end; ++line)
    for (int64_t column = 0; column < d.width; ++column) {
      const typename S::Value* from = dy + line * d.factor_h * row + column * d.factor_w * d.channels;
      over_vectors(
          d.channels, HS_EACH {
            Vec sum = zero();
            for (int64_t k = 0; k < d.factor_h; ++k)
              for (int64_t j = 0; j < d.factor_w; ++j) sum += S::read(from + k * row + j * d.channels + i, lanes);
            S::write(dx + (line * d.width + column) * d.channels + i, lanes, sum);
          });
    }
}
void upsample_nearest_gradient_kernel(const Context& context) {
  HS_BY_STORAGE(ints_of<UpsampleInts>(context).half, upsample_nearest_gradient, context);
}

}  // namespace

void add_channels(KernelTable& table) {
  const auto add = [&](const char* name, const char* operands, const char* ints, const char* floats,
                       void (*run)(const Context&), int64_t (*workspace)(const int64_t*, int) = nullptr) {
    add_kernel(table, {name, operands, ints, floats, run, workspace, nullptr, nullptr});
  };
  add("channel_shuffle", ShuffleOperands::names, ShuffleInts::names, "", channel_shuffle);
  add("gate_gradient", GateOperands::names, GateInts::names, "", gate_gradient_kernel);
  add("local_response_norm", ResponseOperands::names, ResponseInts::names, ResponseFloats::names,
      local_response_norm_kernel, response_workspace);
  add("upsample_nearest", UpsampleOperands::names, UpsampleInts::names, "", upsample_nearest_kernel);
  add("upsample_nearest_gradient", UpsampleGradientOperands::names, UpsampleInts::names, "",
      upsample_nearest_gradient_kernel);
}

}  // namespace hs::HS_ISA
