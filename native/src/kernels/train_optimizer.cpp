// Parameter updates. All read `hyper` (0: learning rate, 1 and 2: what the optimizer works out for each step) and
// `control` (0: whether to update at all, 1: what the gradient is multiplied by, 3: how many parameters have been
// updated, 4: whether a gradient was refused). A gradient is looked at as a whole before it is used: from the first
// that is not finite on, control 0 is 0, and nothing changes any more.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, gradient, hyper, control, parameter, first, second);
HS_FIELDS(Ints, int64_t, count, nesterov, decoupled);
// rate: multiplies the learning rate (of this parameter's group); clip: largest size of one value of the gradient.
HS_FIELDS(Floats, float, rate, decay, clip, a, b, epsilon);

// Whether all of a gradient is finite, the same answer for all threads; accounts for it in `control`.
HS_INLINE bool accepts(const Context& context, const float* gradient, int64_t count, Vec factor, float* control) {
  Vec nought = zero();  // NaN as soon as a value is not finite
  over_vectors(count, HS_EACH { nought += Float32::read(gradient + i, lanes) * factor * zero(); });
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

template <class F>
HS_INLINE void over_parameters(const Context& context, F update) {
  const auto& p = operands_of<Operands>(context);
  const auto& f = floats_of<Floats>(context);
  const float* hyper = p.hyper;
  float* control = p.control;
  if (control[0] == 0.0f) return;
  const Range mine = share(ints_of<Ints>(context).count, 64, context.thread, context.threads);
  const float* gradient = static_cast<const float*>(p.gradient) + mine.begin;
  float* parameter = static_cast<float*>(p.parameter) + mine.begin;
  float* first = p.first.absent() ? nullptr : static_cast<float*>(p.first) + mine.begin;
  float* second = p.second.absent() ? nullptr : static_cast<float*>(p.second) + mine.begin;
  const Vec factor = broadcast(control[1]), high = broadcast(f.clip), low = broadcast(-f.clip);
  const Vec rate = broadcast(hyper[0] * f.rate);
  if (!accepts(context, gradient, mine.end - mine.begin, factor, control)) return;
  over_vectors(
      mine.end - mine.begin, HS_EACH {
        Vec w = Float32::read(parameter + i, lanes);
        Vec g = Float32::read(gradient + i, lanes) * factor;
        g = min_of(high, max_of(low, g));
        Vec m = first != nullptr ? Float32::read(first + i, lanes) : zero();
        Vec v = second != nullptr ? Float32::read(second + i, lanes) : zero();
        update(w, g, m, v, rate);
        Float32::write(parameter + i, lanes, w);
        if (first != nullptr) Float32::write(first + i, lanes, m);
        if (second != nullptr) Float32::write(second + i, lanes, v);
      });
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
    add_kernel(table, {name, Operands::names, Ints::names, Floats::names, run, nullptr, nullptr, nullptr});
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
