// The arena on POSIX systems is an anonymous mapping, so that its pages can be given back while programs keep
// their pointers.
#include "arena.hpp"

#include <new>

#if defined(__linux__)
#include <malloc.h>
#endif
#include <sys/mman.h>
#include <unistd.h>

namespace hs {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;
}

Arena::Arena(size_t bytes) : bytes_(bytes) {
  const size_t page = bytes >= 2 * kHugePage ? kHugePage : 4096;
  mapped_ = (bytes + page - 1) / page * page;
  if (mapped_ == 0) mapped_ = page;
#if defined(__GLIBC__)
  // What was freed meanwhile, such as a model's arrays that a trainer has copied, need not stay resident beside it.
  if (page == kHugePage) malloc_trim(0);
#endif
  // Aligned to a huge page where the arena is large: fewer misses of the address cache on long walks.
  void* memory = mmap(nullptr, mapped_ + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<uint8_t*>(memory);
  const size_t skip = (page - reinterpret_cast<uintptr_t>(begin) % page) % page;
  if (skip > 0) munmap(begin, skip);
  if (page > skip) munmap(begin + skip + mapped_, page - skip);
  data_ = begin + skip;
#if defined(MADV_HUGEPAGE)
  if (page == kHugePage) madvise(data_, mapped_, MADV_HUGEPAGE);
#endif
}

Arena::~Arena() { munmap(data_, mapped_); }

void Arena::release(size_t begin, size_t end) {
  static const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t last = end >= bytes_ ? mapped_ : end / page * page;
  const size_t first = (begin + page - 1) / page * page;
  if (first >= last) return;
#if defined(__linux__)
  madvise(data_ + first, last - first, MADV_DONTNEED);
#else
  // Elsewhere MADV_DONTNEED is only a hint: mapping afresh over the same addresses does give the pages back.
  mmap(data_ + first, last - first, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
#endif
}

}  // namespace hs
