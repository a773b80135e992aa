// Parameter updates. All read `hyper` (0: learning rate, 1 and 2: what the optimizer works out for each step) and
// `control` (0: whether to update at all, 1: what the gradient is multiplied by, 3: how many parameters have been
// updated, 4: whether a gradient was refused). A gradient is looked at as a whole before it is used: from the first
// that is not finite on, control 0 is 0, and nothing changes any more.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

// With `ids` (int32, `rows` of them) the parameter is a table and `gradient` its rows: (rows, channels), to be added up
// by id. So the gradient of a large table, nearly all of which is zero, is never stored; zeros count as such.
// With `x` (rows, inner) and `dz` (rows, channels), stored as `half` says, the parameter is the weights (inner,
// channels) of a linear layer with that input and that gradient of its output (`product` is 1). The weights' gradient,
// x^T dz, is computed where it is used.
HS_FIELDS(Operands, Buffer, gradient, hyper, control, parameter, first, second, ids, x, dz, workspace);
HS_FIELDS(Ints, int64_t, count, rows, channels, nesterov, decoupled, product, half, x_row, dz_row);
// rate: multiplies the learning rate (of this parameter's group); clip: largest size of one value of the gradient.
HS_FIELDS(Floats, float, rate, decay, clip, a, b, epsilon);

// NaN as soon as a value of a gradient is not finite, else 0.
HS_INLINE Vec looked_at(const float* gradient, int64_t count, Vec factor) {
  Vec nought = zero();
  over_vectors(count, HS_EACH { nought += Float32::read(gradient + i, lanes) * factor * zero(); });
  return nought;
}

// Whether the gradient is finite as a whole, the same answer for all threads; accounts for it in `control`.
HS_INLINE bool accepts(const Context& context, Vec nought, float* control) {
  auto* refused = reinterpret_cast<uint32_t*>(&control[4]);
  if (!(sum_of(nought) == 0.0f)) __atomic_store_n(refused, 0x3f800000u, __ATOMIC_RELAXED);  // 1, maybe by several
  barrier(context);
  const bool good = __atomic_load_n(refused, __ATOMIC_RELAXED) == 0u;
  if (context.thread == 0) {
    control[0] = good ? 1.0f : 0.0f;
    control[3] += good ? 1.0f : 0.0f;
  }
  return good;
}

// A table's gradient, each thread's share of it, a few rows at a time: the same sums, in the same order, as
// `embedding_gradient` gives.
constexpr int64_t kRows = 16;  // whole vectors, whatever the channels
class GradientRows {
 public:
  explicit GradientRows(const Context& context) : d_(ints_of<Ints>(context)) {
    const auto& p = operands_of<Operands>(context);
    const int64_t vocabulary = d_.count / d_.channels;
    mine_ = share(vocabulary, kRows, context.thread, context.threads);
    dy_ = p.gradient;
    first_of_ = p.workspace;
    next_ = first_of_ + round_up(vocabulary, kRows);
    const int64_t states = round_up(d_.channels, kRows);
    block_ = reinterpret_cast<float*>(next_ + round_up(d_.rows, kRows)) +
             context.thread * (kRows * d_.channels + 2 * states);
    fresh_[0] = block_ + kRows * d_.channels;
    fresh_[1] = fresh_[0] + states;
    clear();
    clear_fresh();
    for (int64_t id = mine_.begin; id < mine_.end; ++id) first_of_[id] = -1;
    const int32_t* ids = p.ids;
    for (int64_t r = d_.rows - 1; r >= 0; --r)
      if (ids[r] >= mine_.begin && ids[r] < mine_.end) {
        next_[r] = first_of_[ids[r]];
        first_of_[ids[r]] = static_cast<int32_t>(r);
      }
  }
  // f(gradient, first value, whether it has a gradient) for every row, those without a gradient too.
  template <class F>
  void over_rows(F f) {
    for (int64_t id = mine_.begin; id < mine_.end; id += kRows) {
      const int64_t end = min_of(id + kRows, mine_.end);
      bool used = false;
      for (int64_t i = id; i < end; ++i)
        for (int64_t r = first_of_[i]; r >= 0; r = next_[r], used = true)
          for (int64_t c = 0; c < d_.channels; ++c) block_[(i - id) * d_.channels + c] += dy_[r * d_.channels + c];
      for (int64_t i = id; i < end; ++i) f(block_ + (i - id) * d_.channels, i * d_.channels, first_of_[i] >= 0);
      if (used) clear();
    }
  }
  // A row of zeros for each of the two states.
  float* fresh(int state) const { return fresh_[state]; }
  void clear_fresh() {
    __builtin_memset(fresh_[0], 0, static_cast<size_t>(2 * round_up(d_.channels, kRows)) * sizeof(float));
  }
  static int64_t bytes(const Ints& d, int threads) {
    if (d.rows == 0) return 0;
    const int64_t states = round_up(d.channels, kRows), ids = round_up(d.count / d.channels, kRows);
    return (ids + round_up(d.rows, kRows) + threads * (kRows * d.channels + 2 * states)) * 4;
  }

 private:
  void clear() { __builtin_memset(block_, 0, static_cast<size_t>(kRows * d_.channels) * sizeof(float)); }

  const Ints& d_;
  Range mine_;
  const float* dy_;
  int32_t *first_of_, *next_;
  float* block_;
  float* fresh_[2];
};

// Whether a row is zero bit for bit, as all of a state is at first. Reading it takes no memory, since the system shows
// one page of zeros in place of all that nobody has written to.
HS_INLINE bool blank(const float* row, int64_t count) {
  uint32_t bits = 0;
  for (int64_t i = 0; i < count && bits == 0; i += 64)
    for (int64_t k = i; k < min_of(i + 64, count); ++k) bits |= __builtin_bit_cast(uint32_t, row[k]);
  return bits == 0;
}

// The gradient of a linear layer's weights, each thread's share of it, a few rows of weights at a time, so that it
// stays in the first-level cache between the product and the update: the same sums, in the same order, as the layer's
// backward kernel gives for so few rows.
constexpr int64_t kProductFloats = 6144;
template <class S>
class GradientProduct {
 public:
  explicit GradientProduct(const Context& context) : d_(ints_of<Ints>(context)) {
    const auto& p = operands_of<Operands>(context);
    const int64_t inner = d_.count / d_.channels, dz_row = row_of(d_.dz_row, d_.channels);
    x_row_ = row_of(d_.x_row, inner);
    rows_ = rows_of_block(d_);
    padded_ = round_up(d_.channels, kWidth);
    mine_ = share(inner, rows_, context.thread, context.threads);
    block_ = static_cast<float*>(p.workspace) + context.thread * floats_per_thread(d_);
    x_block_ = block_ + round_up(rows_ * d_.channels, 16);
    dz_ = x_block_ + round_up(d_.rows * kTileRows, 16);
    x_ = p.x;
    const typename S::Value* from = p.dz;
    const int64_t width = mine_.end - mine_.begin;
    for (int64_t r = 0; r < d_.rows; ++r) {
      Vec of_dz = zero(), of_x = zero();
      float* dz = dz_ + r * padded_;
      over_vectors(
          d_.channels, HS_EACH {
            const Vec v = S::read(from + r * dz_row + i, lanes);
            store(dz + i, v);  // what is behind the row is padding
            of_dz += abs_of(v);
          });
      over_vectors(width, HS_EACH { of_x += abs_of(S::read(x_ + r * x_row_ + mine_.begin + i, lanes)); });
      bound_ += sum_of(of_dz) * sum_of(of_x);
    }
  }
  // No value of this thread's share is larger; NaN or infinite where nothing can be said.
  float bound() const { return bound_; }
  // f(gradient, first value, values)
  template <class F>
  void over_blocks(F f) {
    for (int64_t k = mine_.begin; k < mine_.end; k += rows_) {
      const int64_t count = min_of(rows_, mine_.end - k);
      __builtin_memset(block_, 0, static_cast<size_t>(count * d_.channels) * sizeof(float));
      const float* x = x_block_;
      int64_t x_row = kTileRows;
      if constexpr (S::is_float) {
        x = x_ + k;
        x_row = x_row_;
      } else {
        for (int64_t r = 0; r < d_.rows; ++r)
          load_row<S>(x_ + r * x_row_ + k, {nullptr, nullptr, {Activation::none, 0.0f, 0.0f}}, x_block_ + r * kTileRows,
                      count);
      }
      gemm_transposed(x, x_row, count, dz_, padded_, d_.channels, d_.rows, block_, d_.channels);
      f(block_, k * d_.channels, count * d_.channels);
    }
  }
  static int64_t bytes(const Ints& d, int threads) { return threads * floats_per_thread(d) * 4; }

 private:
  static int64_t rows_of_block(const Ints& d) { return max_of(1, min_of(kTileRows, kProductFloats / d.channels)); }
  static int64_t floats_per_thread(const Ints& d) {
    return round_up(rows_of_block(d) * d.channels, 16) + round_up(d.rows * kTileRows, 16) +
           d.rows * round_up(d.channels, 16);
  }

  const Ints& d_;
  const typename S::Value* x_;
  int64_t x_row_, rows_, padded_;
  Range mine_;
  float *block_, *x_block_, *dz_;
  float bound_ = 0.0f;
};

template <class F>
HS_INLINE void over_parameters(const Context& context, F update) {
  const auto& p = operands_of<Operands>(context);
  const auto& d = ints_of<Ints>(context);
  const auto& f = floats_of<Floats>(context);
  const float* hyper = p.hyper;
  float* control = p.control;
  if (control[0] == 0.0f) return;
  float *parameter = p.parameter, *first = p.first, *second = p.second;
  const Vec factor = broadcast(control[1]), high = broadcast(f.clip), low = broadcast(-f.clip);
  const Vec rate = broadcast(hyper[0] * f.rate);
  // The build does not let the compiler contract this arithmetic: the same bits with full vectors and with parts.
  const auto apply = [&](const float* gs, float* ws, float* ms, float* vs, int64_t n) __attribute__((noinline)) {
    over_vectors(
        n, HS_EACH {
          Vec w = Float32::read(ws + i, lanes);
          Vec g = Float32::read(gs + i, lanes) * factor;
          g = min_of(high, max_of(low, g));
          Vec m = ms != nullptr ? Float32::read(ms + i, lanes) : zero();
          Vec v = vs != nullptr ? Float32::read(vs + i, lanes) : zero();
          update(w, g, m, v, rate);
          Float32::write(ws + i, lanes, w);
          if (ms != nullptr) Float32::write(ms + i, lanes, m);
          if (vs != nullptr) Float32::write(vs + i, lanes, v);
        });
  };
  const auto from = [](float* state, int64_t begin) { return state == nullptr ? nullptr : state + begin; };
  const auto by_product = [&](auto product) {
    Vec nought = zero();
    // Far below the largest float32, whatever was rounded: then none of the values needs to be looked at.
    if (!(product.bound() * max_of(control[1], -control[1]) < 0x1p120f))
      product.over_blocks(
          [&](const float* gradient, int64_t, int64_t count) { nought += looked_at(gradient, count, factor); });
    if (!accepts(context, nought, control)) return;
    product.over_blocks([&](const float* gradient, int64_t begin, int64_t count) {
      apply(gradient, parameter + begin, from(first, begin), from(second, begin), count);
    });
  };
  if (d.product != 0) {
    if (d.half == 0) return by_product(GradientProduct<Float32>(context));
    if (d.half == 1) return by_product(GradientProduct<BFloat16>(context));
    return by_product(GradientProduct<Float16>(context));
  }
  if (p.ids.absent()) {
    const Range mine = share(d.count, 64, context.thread, context.threads);
    const float* gradient = static_cast<const float*>(p.gradient) + mine.begin;
    const int64_t count = mine.end - mine.begin;
    if (accepts(context, looked_at(gradient, count, factor), control))
      apply(gradient, parameter + mine.begin, from(first, mine.begin), from(second, mine.begin), count);
    return;
  }
  GradientRows rows(context);
  Vec nought = zero();
  rows.over_rows([&](const float* gradient, int64_t, bool used) {
    if (used) nought += looked_at(gradient, d.channels, factor);
  });
  if (!accepts(context, nought, control)) return;
  const auto is_blank = [&](const float* state) { return state == nullptr || blank(state, d.channels); };
  rows.over_rows([&](const float* gradient, int64_t begin, bool used) {
    float* states[2] = {from(first, begin), from(second, begin)};
    if (used || !is_blank(states[0]) || !is_blank(states[1])) {
      apply(gradient, parameter + begin, states[0], states[1], d.channels);
      return;
    }
    // A word that has never come: its states are not written to while they stay zero, and take no memory.
    float* fresh[2] = {states[0] == nullptr ? nullptr : rows.fresh(0), states[1] == nullptr ? nullptr : rows.fresh(1)};
    apply(gradient, parameter + begin, fresh[0], fresh[1], d.channels);
    if (is_blank(fresh[0]) && is_blank(fresh[1])) return;
    for (int state = 0; state < 2; ++state)
      if (states[state] != nullptr)
        __builtin_memcpy(states[state], fresh[state], static_cast<size_t>(d.channels) * sizeof(float));
    rows.clear_fresh();
  });
}
int64_t update_workspace(const int64_t* ints, int threads) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  return d.product != 0 ? GradientProduct<Float32>::bytes(d, threads) : GradientRows::bytes(d, threads);
}
#define HS_UPDATE [&](Vec& w, Vec& g, Vec& m, Vec& v, Vec rate) __attribute__((always_inline))

// a: momentum. The buffer starts at zero and takes the first gradient whole, as PyTorch's does.
void sgd(const Context& context) {
  const auto f = floats_of<Floats>(context);
  const bool nesterov = ints_of<Ints>(context).nesterov != 0, moves = !operands_of<Operands>(context).first.absent();
  over_parameters(
      context, HS_UPDATE {
        (void)v;
        g += w * f.decay;
        if (moves) {
          m = m * f.a + g;
          g = nesterov ? g + m * f.a : m;
        }
        w -= rate * g;
      });
}

// Kingma & Ba 2015; decoupled decay: Loshchilov & Hutter 2019. hyper 1: 1 / (1 - a^t), 2: 1 / sqrt(1 - b^t).
void adam(const Context& context) {
  const auto f = floats_of<Floats>(context);
  const float* hyper = operands_of<Operands>(context).hyper;
  const Vec first = broadcast(hyper[1]), second = broadcast(hyper[2]);
  const bool decoupled = ints_of<Ints>(context).decoupled != 0;
  over_parameters(
      context, HS_UPDATE {
        if (decoupled)
          w -= rate * f.decay * w;
        else
          g += w * f.decay;
        m = m * f.a + g * (1.0f - f.a);
        v = v * f.b + g * g * (1.0f - f.b);
        w -= rate * first * m / (sqrt_of(v) * second + f.epsilon);
      });
}

// Hinton's RMSprop with PyTorch's momentum. a: smoothing, b: momentum; second: mean square, first: momentum buffer.
void rmsprop(const Context& context) {
  const auto f = floats_of<Floats>(context);
  const bool moves = !operands_of<Operands>(context).first.absent();
  over_parameters(
      context, HS_UPDATE {
        g += w * f.decay;
        v = v * f.a + g * g * (1.0f - f.a);
        g = g / (sqrt_of(v) + f.epsilon);
        if (moves) {
          m = m * f.b + g;
          g = m;
        }
        w -= rate * g;
      });
}

// Duchi et al. 2011. hyper 1: 1 / (1 + (t - 1) * learning rate decay).
void adagrad(const Context& context) {
  const auto f = floats_of<Floats>(context);
  const Vec slower = broadcast(static_cast<const float*>(operands_of<Operands>(context).hyper)[1]);
  over_parameters(
      context, HS_UPDATE {
        (void)m;
        g += w * f.decay;
        v += g * g;
        w -= rate * slower * g / (sqrt_of(v) + f.epsilon);
      });
}

// Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms".
void lion(const Context& context) {
  const auto f = floats_of<Floats>(context);
  over_parameters(
      context, HS_UPDATE {
        (void)v;
        w -= rate * f.decay * w;
        const Vec c = m * f.a + g * (1.0f - f.a);
        w -= select(c > zero(), rate, select(c < zero(), zero() - rate, zero()));
        m = m * f.b + g * (1.0f - f.b);
      });
}

// average = decay * average + (1 - decay) * parameter
HS_FIELDS(AverageOperands, Buffer, parameter, control, average);
HS_FIELDS(AverageInts, int64_t, count);
HS_FIELDS(AverageFloats, float, decay);
void average_parameters(const Context& context) {
  const auto& p = operands_of<AverageOperands>(context);
  const float decay = floats_of<AverageFloats>(context).decay;
  if (*static_cast<const float*>(p.control) == 0.0f) return;
  const Range mine = share(ints_of<AverageInts>(context).count, 64, context.thread, context.threads);
  const float* parameter = static_cast<const float*>(p.parameter) + mine.begin;
  float* average = static_cast<float*>(p.average) + mine.begin;
  over_vectors(
      mine.end - mine.begin, HS_EACH {
        const Vec v = Float32::read(average + i, lanes) * decay + Float32::read(parameter + i, lanes) * (1.0f - decay);
        Float32::write(average + i, lanes, v);
      });
}

// total += share * gradient; the share stands in `hyper`, at 4.
HS_FIELDS(AccumulateOperands, Buffer, gradient, hyper, total);
void accumulate_gradient(const Context& context) {
  const auto& p = operands_of<AccumulateOperands>(context);
  const Vec share_of_step = broadcast(static_cast<const float*>(p.hyper)[4]);
  const Range mine = share(ints_of<AverageInts>(context).count, 64, context.thread, context.threads);
  const float* gradient = static_cast<const float*>(p.gradient) + mine.begin;
  float* total = static_cast<float*>(p.total) + mine.begin;
  over_vectors(
      mine.end - mine.begin, HS_EACH {
        const Vec v = Float32::read(gradient + i, lanes) * share_of_step;
        Float32::write(total + i, lanes, Float32::read(total + i, lanes) + v);
      });
}

}  // namespace

void add_train_optimizer(KernelTable& table) {
  const auto add = [&](const char* name, void (*run)(const Context&)) {
    add_kernel(table, {name, Operands::names, Ints::names, Floats::names, run, update_workspace, nullptr, nullptr});
  };
  add("sgd", sgd);
  add("adam", adam);
  add("rmsprop", rmsprop);
  add("adagrad", adagrad);
  add("lion", lion);
  add_kernel(table, {"average_parameters", AverageOperands::names, AverageInts::names, AverageFloats::names,
                     average_parameters, nullptr, nullptr, nullptr});
  add_kernel(table, {"accumulate_gradient", AccumulateOperands::names, AverageInts::names, "", accumulate_gradient,
                     nullptr, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
