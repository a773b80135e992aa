// One round of the memory planner: offsets for buffers that are placed in a given order. No kernels, no pointers.
#pragma once
#include <cstdint>
#include <vector>

namespace hs {

// A buffer of `size` bytes that is needed from call `first` to call `last`, both included.
struct Life {
  int64_t size, first, last;
};

// Places the buffers one by one, each into the tightest gap between those already placed whose lives meet its own, or
// on top of them. Throws std::invalid_argument if `order` is not an order of all of them.
std::vector<int64_t> place(const std::vector<Life>& lives, const std::vector<int64_t>& order);

}  // namespace hs
