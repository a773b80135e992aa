// The arena: one mapping of memory that all activations of a program live in.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hs {

class Arena {
 public:
  explicit Arena(size_t bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  // Gives the pages that lie whole in [begin, end) back to the system; the addresses stay valid and read as zero.
  void release(size_t begin, size_t end);

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_;
  size_t mapped_ = 0;
};

}  // namespace hs
