// Scaled dot-product attention of several heads, forward and backward, one (sample, head) after another. Scores of a
// block of queries live in the cache for as long as they are needed; probabilities are never stored: the backward pass
// computes them again from the logarithm of each row's sum. Sources: Vaswani et al. 2017, "Attention Is All You Need";
// Dao et al. 2022, "FlashAttention".
//
// q and y are (batch, queries, heads * width), k and v (batch, keys, heads * width): heads lie side by side in a row,
// as linear layers leave them, so nothing is transposed in memory. `mask` (batch, keys) int32: keys with 0 are not
// seen.
#include "train.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, q, k, v, mask, random, y, log_sums, workspace);
HS_FIELDS(GradientOperands, Buffer, q, k, v, mask, random, log_sums, dy, dq, dk, dv, workspace);
HS_FIELDS(Ints, int64_t, batch, heads, queries, keys, width, layer, half);
HS_FIELDS(Floats, float, scale, rate);

constexpr int64_t kScoreBytes = 128 << 10;  // of the scores of a block of queries

// Memory of one thread, in floats; all parts are multiples of 64 bytes.
struct Plan {
  int64_t row, padded, scores_row, block;  // row: from one position to the next; padded: of a head's values
  int64_t by_key, by_width, rows, scores, hidden, all_keys;
};
Plan plan_of(const Ints& d) {
  Plan p{};
  p.row = d.heads * d.width;
  p.padded = round_up(d.width, kWidth);
  p.scores_row = round_up(d.keys, 16);
  const int64_t fit = kScoreBytes / (p.scores_row * 4) / kTileRows * kTileRows;
  p.block = min_of(max_of(fit, kTileRows), d.queries);
  p.by_key = round_up(packed_floats(d.width, d.keys), 16);
  p.by_width = round_up(packed_floats(d.keys, d.width), 16);
  p.rows = round_up(p.block * p.padded, 16);
  p.scores = p.block * p.scores_row;
  p.hidden = p.scores_row;
  p.all_keys = round_up(d.keys * p.padded, 16);
  return p;
}
int64_t forward_floats(const Plan& p) { return p.by_key + p.by_width + 2 * p.rows + p.scores + p.hidden; }
int64_t backward_floats(const Plan& p) {
  return 2 * p.by_key + p.by_width + 3 * p.rows + 2 * p.scores + 2 * p.hidden + 2 * p.all_keys;
}

// A head's values of `count` positions, as float32, rows `padded` apart and zero-filled.
template <class S>
void load_head(const typename S::Value* from, int64_t row, int64_t count, int64_t width, int64_t padded, float* to) {
  for (int64_t r = 0; r < count; ++r, from += row, to += padded)
    over_vectors(width, HS_EACH { store(to + i, S::read(from + i, lanes)); });
}
template <class S>
void store_head(const float* from, int64_t padded, int64_t count, int64_t width, typename S::Value* to, int64_t row) {
  for (int64_t r = 0; r < count; ++r, from += padded, to += row)
    over_vectors(width, HS_EACH { S::write(to + i, lanes, load(from + i)); });
}

// Panels of B(k = position, n = value): a head's rows side by side.
template <class S>
void pack_rows(const typename S::Value* from, int64_t row, int64_t count, int64_t width, float* packed) {
  for (int64_t n = 0; n < width; n += kPanel)
    for (int64_t r = 0; r < count; ++r, packed += kPanel)
      for (int64_t v = 0; v < kPanel; v += kWidth) {
        const int64_t lanes = min_of(kWidth, width - n - v);
        store(packed + v, lanes > 0 ? S::read(from + r * row + n + v, lanes) : zero());
      }
}
// Panels of B(k = value, n = position).
template <class S>
void pack_columns(const typename S::Value* from, int64_t row, int64_t count, int64_t width, float* packed) {
  for (int64_t n = 0; n < count; n += kPanel, packed += width * kPanel)
    for (int64_t column = 0; column < kPanel; ++column) {
      const typename S::Value* position = from + (n + column) * row;
      const bool exists = n + column < count;
      over_vectors(
          width, HS_EACH {
            float values[kWidth];
            store(values, exists ? S::read(position + i, lanes) : zero());
            for (int64_t k = 0; k < lanes; ++k) packed[(i + k) * kPanel + column] = values[k];
          });
    }
}

// 0 for keys that are seen and -infinity for others, also behind the last.
void hide_keys(const int32_t* mask, int64_t keys, int64_t padded, float* hidden) {
  for (int64_t j = 0; j < padded; ++j)
    hidden[j] = j < keys && (mask == nullptr || mask[j] != 0) ? 0.0f : -__builtin_inff();
}

// C (rows x columns) = A B, B in packed panels.
void product(const float* a, int64_t a_row, int64_t rows, int64_t inner, const float* b, int64_t columns, float* c,
             int64_t c_row) {
  Gemm g{};
  g.rows = rows;
  g.columns = columns;
  g.inner = inner;
  g.a = a;
  g.a_row = a_row;
  g.b = b;
  g.b_inner = kPanel;
  g.b_panel = inner * kPanel;
  g.c = c;
  g.c_row = c_row;
  gemm(g, {0, rows}, {0, columns});
}

// The dropout of one row of probabilities; without dropout nothing is drawn.
struct RowDropout {
  DropoutKey key;
  int64_t first;  // position of the row's first probability among all
  bool drops;
};
HS_INLINE Vec kept(const RowDropout& dropout, int64_t i) {
  return dropout.drops ? keep(dropout.key, dropout.first + i) : broadcast(1.0f);
}

// Scores become exp(score * scale - largest), after dropout; returns the sum before it, and the row's largest.
struct RowSum {
  float most, sum;
};
RowSum exponentials(float* scores, const float* hidden, int64_t keys, float scale, const RowDropout& dropout) {
  const Vec by = broadcast(scale);
  Vec most = broadcast(-__builtin_inff());
  over_vectors(
      keys, HS_EACH {
        const Vec s = Float32::read(scores + i, lanes) * by + load(hidden + i);
        Float32::write(scores + i, lanes, s);
        most = max_of(most, s);
      });
  const float largest = largest_of(most);
  if (largest == -__builtin_inff()) {  // a row that sees nothing is zero
    __builtin_memset(scores, 0, static_cast<size_t>(keys) * sizeof(float));
    return {0.0f, 0.0f};
  }
  const Vec shift = broadcast(largest);
  Vec sum = zero();
  over_vectors(
      keys, HS_EACH {
        // behind the last key a row reads zeros, which hidden turns into -infinity
        const Vec e = exp_of(Float32::read(scores + i, lanes) + load(hidden + i) - shift);
        sum += e;
        Float32::write(scores + i, lanes, dropout.drops ? e * kept(dropout, i) : e);
      });
  return {largest, sum_of(sum)};
}

template <class S>
void forward(const Context& context) {
  using Value = typename S::Value;
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const auto& f = floats_of<Floats>(context);
  const Plan plan = plan_of(d);
  const Value *q = p.q, *k = p.k, *v = p.v;
  const int32_t* mask = p.mask;
  Value* y = p.y;
  float* log_sums = p.log_sums;
  float* by_key = static_cast<float*>(p.workspace) + context.thread * forward_floats(plan);
  float* by_width = by_key + plan.by_key;
  float* q_block = by_width + plan.by_width;
  float* y_block = q_block + plan.rows;
  float* scores = y_block + plan.rows;
  float* hidden = scores + plan.scores;
  RowDropout dropout{};
  dropout.drops = !p.random.absent() && f.rate > 0.0f;
  if (dropout.drops) dropout.key = dropout_key(p.random, d.layer, f.rate);

  const Range mine = share(d.batch * d.heads, 1, context.thread, context.threads);
  for (int64_t item = mine.begin; item < mine.end; ++item) {
    const int64_t n = item / d.heads, at = item % d.heads * d.width;
    const int64_t first_key = n * d.keys * plan.row + at;
    pack_columns<S>(k + first_key, plan.row, d.keys, d.width, by_key);
    pack_rows<S>(v + first_key, plan.row, d.keys, d.width, by_width);
    hide_keys(mask != nullptr ? mask + n * d.keys : nullptr, d.keys, plan.hidden, hidden);
    for (int64_t begin = 0; begin < d.queries; begin += plan.block) {
      const int64_t count = min_of(plan.block, d.queries - begin), first = (n * d.queries + begin) * plan.row + at;
      load_head<S>(q + first, plan.row, count, d.width, plan.padded, q_block);
      product(q_block, plan.padded, count, d.width, by_key, d.keys, scores, plan.scores_row);
      float* inverse = q_block;  // of each row's sum: the queries are not needed any more
      for (int64_t r = 0; r < count; ++r) {
        const int64_t row = item * d.queries + begin + r;
        dropout.first = row * d.keys;
        const RowSum e = exponentials(scores + r * plan.scores_row, hidden, d.keys, f.scale, dropout);
        inverse[r * plan.padded] = e.sum == 0.0f ? 0.0f : 1.0f / e.sum;
        // +infinity where nothing is seen: the backward pass then finds probabilities of zero
        if (log_sums != nullptr) log_sums[row] = e.sum == 0.0f ? __builtin_inff() : e.most + __builtin_logf(e.sum);
      }
      product(scores, plan.scores_row, count, d.keys, by_width, d.width, y_block, plan.padded);
      for (int64_t r = 0; r < count; ++r) {
        const Vec scale = broadcast(inverse[r * plan.padded]);
        over_vectors(
            d.width, HS_EACH { store(y_block + r * plan.padded + i, load(y_block + r * plan.padded + i) * scale); });
      }
      store_head<S>(y_block, plan.padded, count, d.width, y + first, plan.row);
    }
  }
}
void forward_kernel(const Context& context) { HS_BY_STORAGE(ints_of<Ints>(context).half, forward, context); }
int64_t forward_workspace(const int64_t* ints, int threads) {
  return threads * forward_floats(plan_of(*reinterpret_cast<const Ints*>(ints))) * 4;
}

// With P the probabilities, M what dropout multiplies them with, dP = dy v^T and D = rowsum(P M dP):
//   dv = (P M)^T dy,   dS = P (dP M - D) scale,   dq = dS k,   dk = dS^T q.
template <class S>
void backward(const Context& context) {
  using Value = typename S::Value;
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<GradientOperands>(context);
  const auto& f = floats_of<Floats>(context);
  const Plan plan = plan_of(d);
  const Value *q = p.q, *k = p.k, *v = p.v, *dy = p.dy;
  Value *dq = p.dq, *dk = p.dk, *dv = p.dv;
  const int32_t* mask = p.mask;
  const float* log_sums = p.log_sums;
  float* k_by_key = static_cast<float*>(p.workspace) + context.thread * backward_floats(plan);
  float* v_by_key = k_by_key + plan.by_key;
  float* k_by_width = v_by_key + plan.by_key;
  float* q_block = k_by_width + plan.by_width;
  float* dy_block = q_block + plan.rows;
  float* dq_block = dy_block + plan.rows;
  float* scores = dq_block + plan.rows;
  float* slopes = scores + plan.scores;
  float* hidden = slopes + plan.scores;
  float* probabilities = hidden + plan.hidden;  // of one row
  float* dk_all = probabilities + plan.hidden;
  float* dv_all = dk_all + plan.all_keys;
  RowDropout dropout{};
  dropout.drops = !p.random.absent() && f.rate > 0.0f;
  if (dropout.drops) dropout.key = dropout_key(p.random, d.layer, f.rate);
  const Vec scale = broadcast(f.scale);

  const Range mine = share(d.batch * d.heads, 1, context.thread, context.threads);
  for (int64_t item = mine.begin; item < mine.end; ++item) {
    const int64_t n = item / d.heads, at = item % d.heads * d.width;
    const int64_t first_key = n * d.keys * plan.row + at;
    pack_columns<S>(k + first_key, plan.row, d.keys, d.width, k_by_key);
    pack_columns<S>(v + first_key, plan.row, d.keys, d.width, v_by_key);
    pack_rows<S>(k + first_key, plan.row, d.keys, d.width, k_by_width);
    hide_keys(mask != nullptr ? mask + n * d.keys : nullptr, d.keys, plan.hidden, hidden);
    __builtin_memset(dk_all, 0, static_cast<size_t>(2 * plan.all_keys) * sizeof(float));
    for (int64_t begin = 0; begin < d.queries; begin += plan.block) {
      const int64_t count = min_of(plan.block, d.queries - begin), first = (n * d.queries + begin) * plan.row + at;
      load_head<S>(q + first, plan.row, count, d.width, plan.padded, q_block);
      load_head<S>(dy + first, plan.row, count, d.width, plan.padded, dy_block);
      product(q_block, plan.padded, count, d.width, k_by_key, d.keys, scores, plan.scores_row);
      product(dy_block, plan.padded, count, d.width, v_by_key, d.keys, slopes, plan.scores_row);
      for (int64_t r = 0; r < count; ++r) {
        const int64_t row = item * d.queries + begin + r;
        dropout.first = row * d.keys;
        const Vec log_sum = broadcast(log_sums[row]);
        float* s = scores + r * plan.scores_row;
        float* ds = slopes + r * plan.scores_row;
        Vec products = zero();
        over_vectors(
            d.keys, HS_EACH {
              const Vec e = exp_of(Float32::read(s + i, lanes) * scale + load(hidden + i) - log_sum);
              const Vec m = kept(dropout, i), g = Float32::read(ds + i, lanes) * m;
              products += e * g;
              store(probabilities + i, e);
              Float32::write(s + i, lanes, e * m);
              Float32::write(ds + i, lanes, g);
            });
        const Vec sum = broadcast(sum_of(products));
        over_vectors(
            d.keys, HS_EACH {
              Float32::write(ds + i, lanes, load(probabilities + i) * (Float32::read(ds + i, lanes) - sum) * scale);
            });
      }
      gemm_transposed(scores, plan.scores_row, d.keys, dy_block, plan.padded, d.width, count, dv_all, plan.padded);
      gemm_transposed(slopes, plan.scores_row, d.keys, q_block, plan.padded, d.width, count, dk_all, plan.padded);
      if (dq == nullptr) continue;
      product(slopes, plan.scores_row, count, d.keys, k_by_width, d.width, dq_block, plan.padded);
      store_head<S>(dq_block, plan.padded, count, d.width, dq + first, plan.row);
    }
    if (dk != nullptr) store_head<S>(dk_all, plan.padded, d.keys, d.width, dk + first_key, plan.row);
    if (dv != nullptr) store_head<S>(dv_all, plan.padded, d.keys, d.width, dv + first_key, plan.row);
  }
}
void backward_kernel(const Context& context) { HS_BY_STORAGE(ints_of<Ints>(context).half, backward, context); }
int64_t backward_workspace(const int64_t* ints, int threads) {
  return threads * backward_floats(plan_of(*reinterpret_cast<const Ints*>(ints))) * 4;
}

}  // namespace

void add_attention(KernelTable& table) {
  add_kernel(table, {"attention", Operands::names, Ints::names, Floats::names, forward_kernel, forward_workspace,
                     nullptr, nullptr});
  add_kernel(table, {"attention_gradient", GradientOperands::names, Ints::names, Floats::names, backward_kernel,
                     backward_workspace, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
