// Read first by every kernel source. Opens the rules of this folder:
//  * each source is compiled once per instruction set, into namespace hs::HS_ISA;
//  * nothing here may become an inline function that is shared between instruction sets (the linker would keep any one
//    of them): functions are static, in an anonymous namespace or in hs::HS_ISA, and no std:: templates are used.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernel.hpp"

#define HS_INLINE static inline __attribute__((always_inline, unused))

namespace hs::HS_ISA {

// A struct of fields of one type, and their names as one string: schema and access can't disagree.
//   HS_FIELDS(Ints, int64_t, rows, columns)   ->   fields<Ints>(context.ints).rows, Ints::names
#define HS_FIELDS(Name, Type, ...)                     \
  struct Name {                                        \
    Type __VA_ARGS__;                                  \
    static constexpr const char* names = #__VA_ARGS__; \
  }
// A row that lies in a longer one: elements from it to the next. Ints `NAME_row` say so for an operand; 0: rows lie one
// after the other, `width` long.
HS_INLINE int64_t row_of(int64_t given, int64_t width) { return given != 0 ? given : width; }
struct Nothing {
  static constexpr const char* names = "";
};

// An operand: converts to a pointer of the type that the kernel expects.
struct Buffer {
  void* data;
  template <class T>
  __attribute__((always_inline)) operator T*() const {
    return static_cast<T*>(data);
  }
  __attribute__((always_inline)) bool absent() const { return data == nullptr; }
};

template <class Ints>
HS_INLINE const Ints& ints_of(const Context& context) {
  return *reinterpret_cast<const Ints*>(context.ints);
}
template <class Operands>
HS_INLINE const Operands& operands_of(const Context& context) {
  return *reinterpret_cast<const Operands*>(context.operands);
}
template <class Floats>
HS_INLINE const Floats& floats_of(const Context& context) {
  return *reinterpret_cast<const Floats*>(context.floats);
}
HS_INLINE void barrier(const Context& context) { context.barrier(context.team, context.thread); }

HS_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
HS_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
HS_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
HS_INLINE int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

// The part of `count` items, in units of `unit`, that belongs to one thread.
struct Range {
  int64_t begin, end;
};
HS_INLINE Range share(int64_t count, int64_t unit, int thread, int threads) {
  const int64_t units = divide_up(count, unit);
  return {min_of(count, units * thread / threads * unit), min_of(count, units * (thread + 1) / threads * unit)};
}

}  // namespace hs::HS_ISA
