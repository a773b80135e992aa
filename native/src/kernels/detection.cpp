// The loss of YOLOv3 (Redmon & Farhadi 2018, section 2) over the outputs of one scale, and its gradient.
#include "isa.hpp"

namespace hs::HS_ISA {
namespace {

// maps (batch, height, width, boxes, 5 + classes): x, y, log w, log h, objectness, classes, before their sigmoids;
// truths (batch, truths, 5): class, x and y of the centre, width, height, as shares of the image; a class below 0 is
// none. anchors (all, 2): width and height as shares of the image; those of this scale are first .. first + boxes - 1.
HS_FIELDS(Operands, Buffer, maps, truths, anchors, dloss, loss, dmaps, workspace);
HS_FIELDS(Ints, int64_t, batch, height, width, boxes, classes, truth_count, anchor_count, first);
HS_FIELDS(Floats, float, ignore);

struct Box {
  float x, y, w, h;
};
float least(float a, float b) { return a < b ? a : b; }
float most(float a, float b) { return a > b ? a : b; }
float sigmoid(float x) { return 1.0f / (1.0f + __builtin_expf(-x)); }
// -t log s(x) - (1 - t) log (1 - s(x)), without overflow.
float cross_entropy(float x, float t) {
  return most(x, 0.0f) - x * t + __builtin_log1pf(__builtin_expf(-__builtin_fabsf(x)));
}
float overlap(Box a, Box b) {
  const float w = least(a.x + a.w / 2, b.x + b.w / 2) - most(a.x - a.w / 2, b.x - b.w / 2);
  const float h = least(a.y + a.h / 2, b.y + b.h / 2) - most(a.y - a.h / 2, b.y - b.h / 2);
  const float both = most(w, 0.0f) * most(h, 0.0f), either = a.w * a.h + b.w * b.h - both;
  return either > 0.0f ? both / either : 0.0f;
}

// The prediction that is responsible for a truth: in the cell of its centre, with the anchor whose shape is closest
// among those of all scales; -1 where that is one of another scale.
int64_t responsible(const Ints& d, const float* truth, const float* anchors) {
  if (!(truth[0] >= 0.0f) || !(truth[3] > 0.0f) || !(truth[4] > 0.0f)) return -1;
  int64_t best = 0;
  float closest = -1.0f;
  for (int64_t i = 0; i < d.anchor_count; ++i) {
    const float share = overlap({0, 0, truth[3], truth[4]}, {0, 0, anchors[2 * i], anchors[2 * i + 1]});
    if (share > closest) closest = share, best = i;
  }
  if (best < d.first || best >= d.first + d.boxes) return -1;
  const auto cell = [](float at, int64_t cells) {
    const int64_t i = static_cast<int64_t>(most(at, 0.0f) * static_cast<float>(cells));
    return i < cells ? i : cells - 1;
  };
  return (cell(truth[2], d.height) * d.width + cell(truth[1], d.width)) * d.boxes + best - d.first;
}

// One image: its loss, or where `gradients` is given the derivatives times `scale`.
float image_loss(const Ints& d, float ignore, const float* maps, const float* truths, const float* anchors,
                 int32_t* chosen, float* gradients, float scale) {
  const int64_t size = 5 + d.classes, predictions = d.height * d.width * d.boxes;
  for (int64_t j = 0; j < d.truth_count; ++j) chosen[j] = static_cast<int32_t>(responsible(d, truths + 5 * j, anchors));
  double total = 0.0;
  for (int64_t p = 0; p < predictions; ++p) {
    const float* z = maps + p * size;
    float* g = gradients == nullptr ? nullptr : gradients + p * size;
    if (g != nullptr)
      for (int64_t i = 0; i < size; ++i) g[i] = 0.0f;
    const int64_t box = p % d.boxes, column = p / d.boxes % d.width, row = p / d.boxes / d.width;
    const float* anchor = anchors + 2 * (d.first + box);
    int64_t truth = d.truth_count - 1;
    while (truth >= 0 && chosen[truth] != p) --truth;
    if (truth < 0) {
      const Box found{(static_cast<float>(column) + sigmoid(z[0])) / static_cast<float>(d.width),
                      (static_cast<float>(row) + sigmoid(z[1])) / static_cast<float>(d.height),
                      __builtin_expf(least(z[2], 20.0f)) * anchor[0], __builtin_expf(least(z[3], 20.0f)) * anchor[1]};
      bool ignored = false;
      for (int64_t j = 0; j < d.truth_count && !ignored; ++j) {
        const float* t = truths + 5 * j;
        ignored = t[0] >= 0.0f && overlap(found, {t[1], t[2], t[3], t[4]}) > ignore;
      }
      if (ignored) continue;
      total += static_cast<double>(cross_entropy(z[4], 0.0f));
      if (g != nullptr) g[4] = scale * sigmoid(z[4]);
      continue;
    }
    const float* t = truths + 5 * truth;
    const float small = 2.0f - t[3] * t[4];  // small boxes count more
    const float wanted[4] = {t[1] * static_cast<float>(d.width) - static_cast<float>(column),
                             t[2] * static_cast<float>(d.height) - static_cast<float>(row),
                             __builtin_logf(t[3] / anchor[0]), __builtin_logf(t[4] / anchor[1])};
    for (int64_t i = 0; i < 2; ++i) {
      const float off = z[2 + i] - wanted[2 + i];
      total += static_cast<double>(small * (cross_entropy(z[i], wanted[i]) + 0.5f * off * off));
      if (g != nullptr) g[i] = scale * small * (sigmoid(z[i]) - wanted[i]), g[2 + i] = scale * small * off;
    }
    total += static_cast<double>(cross_entropy(z[4], 1.0f));
    if (g != nullptr) g[4] = scale * (sigmoid(z[4]) - 1.0f);
    for (int64_t c = 0; c < d.classes; ++c) {
      const float one = c == static_cast<int64_t>(t[0]) ? 1.0f : 0.0f;
      total += static_cast<double>(cross_entropy(z[5 + c], one));
      if (g != nullptr) g[5 + c] = scale * (sigmoid(z[5 + c]) - one);
    }
  }
  return static_cast<float>(total);
}

// Floats for the sums of images, then for each thread the predictions that truths have chosen.
int64_t workspace_bytes(const int64_t* ints, int threads) {
  const Ints& d = *reinterpret_cast<const Ints*>(ints);
  return 4 * (d.batch + threads * d.truth_count);
}

void yolo_loss(const Context& context) {
  const auto& d = ints_of<Ints>(context);
  const auto& p = operands_of<Operands>(context);
  const int64_t size = d.height * d.width * d.boxes * (5 + d.classes);
  float* sums = p.workspace;
  auto* chosen = reinterpret_cast<int32_t*>(sums + d.batch) + context.thread * d.truth_count;
  const float* dloss = p.dloss;
  float* dmaps = p.dmaps;
  const float share_of_image = 1.0f / static_cast<float>(d.batch);
  const float scale = dloss == nullptr ? 0.0f : *dloss * share_of_image;
  const Range mine = share(d.batch, 1, context.thread, context.threads);
  for (int64_t n = mine.begin; n < mine.end; ++n)
    sums[n] = image_loss(d, floats_of<Floats>(context).ignore, static_cast<const float*>(p.maps) + n * size,
                         static_cast<const float*>(p.truths) + n * d.truth_count * 5, p.anchors, chosen,
                         dmaps == nullptr ? nullptr : dmaps + n * size, scale);
  if (p.loss.absent()) return;
  barrier(context);
  if (context.thread != 0) return;
  float total = 0.0f;
  for (int64_t n = 0; n < d.batch; ++n) total += sums[n];
  *static_cast<float*>(p.loss) = total * share_of_image;
}

}  // namespace

void add_detection(KernelTable& table) {
  add_kernel(table,
             {"yolo_loss", Operands::names, Ints::names, Floats::names, yolo_loss, workspace_bytes, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
