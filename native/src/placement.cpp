// Best-fit placement. Quadratic in the buffers of a program (hundreds): a millisecond, where Python took thirty.
#include "placement.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace hs {

std::vector<int64_t> place(const std::vector<Life>& lives, const std::vector<int64_t>& order) {
  const auto count = static_cast<int64_t>(lives.size());
  std::vector<int64_t> offsets(lives.size(), -1);
  if (static_cast<int64_t>(order.size()) != count) throw std::invalid_argument("the order must name every buffer once");
  std::vector<int64_t> placed;
  std::vector<std::pair<int64_t, int64_t>> taken;  // (begin, size) of what this buffer must not overlap
  for (const int64_t i : order) {
    if (i < 0 || i >= count || offsets[static_cast<size_t>(i)] >= 0)
      throw std::invalid_argument("the order must name every buffer once");
    const Life& life = lives[static_cast<size_t>(i)];
    taken.clear();
    for (const int64_t j : placed) {
      const Life& other = lives[static_cast<size_t>(j)];
      if (other.first <= life.last && life.first <= other.last && other.size > 0)
        taken.emplace_back(offsets[static_cast<size_t>(j)], other.size);
    }
    std::sort(taken.begin(), taken.end());
    int64_t cursor = 0, best = -1, best_gap = 0;
    for (const auto& [begin, size] : taken) {
      const int64_t gap = begin - cursor;
      if (gap >= life.size && (best < 0 || gap < best_gap)) best = cursor, best_gap = gap;
      cursor = std::max(cursor, begin + size);
    }
    offsets[static_cast<size_t>(i)] = best >= 0 ? best : cursor;
    placed.push_back(i);
  }
  return offsets;
}

}  // namespace hs
