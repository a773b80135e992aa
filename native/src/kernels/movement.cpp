// Moving data: a copy between two strided views (permute, slice, concat, pad, split) and filling with a value.
#include "isa.hpp"

namespace hs::HS_ISA {
namespace {

// output[output_offset + i . o] = input[input_offset + i . s] for all i below (d0 .. d5); all counted in elements of
// 1, 2, 4 or 8 bytes.
HS_FIELDS(CopyOperands, Buffer, input, output);
HS_FIELDS(CopyInts, int64_t, element_bytes, input_offset, output_offset, d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5,
          o0, o1, o2, o3, o4, o5);

// One run of values that lie one after the other; short ones, as channels of a pixel are, without a call.
template <class T>
HS_INLINE void copy_run(const T* from, T* to, int64_t n) {
  constexpr int64_t step = 32 / sizeof(T);
  if (n > 16 * step) {
    __builtin_memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
    return;
  }
  int64_t i = 0;
  for (; i + step <= n; i += step) __builtin_memcpy(to + i, from + i, 32);
  for (; i < n; ++i) to[i] = from[i];
}

template <class T>
void copy_rows(const CopyInts& d, const T* input, T* output, int thread, int threads) {
  const int64_t rows = d.d0 * d.d1 * d.d2 * d.d3 * d.d4;
  const bool cut = rows < 4 * threads;  // few long rows are cut, many short ones dealt out
  const Range mine = cut ? Range{0, rows} : share(rows, 1, thread, threads);
  const Range part = cut ? share(d.d5, 64, thread, threads) : Range{0, d.d5};
  input += d.input_offset;
  output += d.output_offset;
  int64_t r = mine.begin;
  while (r < mine.end) {
    const int64_t i4 = r % d.d4, i3 = r / d.d4 % d.d3, i2 = r / (d.d4 * d.d3) % d.d2,
                  i1 = r / (d.d4 * d.d3 * d.d2) % d.d1, i0 = r / (d.d4 * d.d3 * d.d2 * d.d1);
    const T* from = input + i0 * d.s0 + i1 * d.s1 + i2 * d.s2 + i3 * d.s3 + i4 * d.s4;
    T* to = output + i0 * d.o0 + i1 * d.o1 + i2 * d.o2 + i3 * d.o3 + i4 * d.o4;
    const int64_t end = min_of(mine.end, r + d.d4 - i4);
    if (d.s5 == 1 && d.o5 == 1) {
      for (; r < end; ++r, from += d.s4, to += d.o4)
        copy_run(from + part.begin, to + part.begin, part.end - part.begin);
    } else {
      for (; r < end; ++r, from += d.s4, to += d.o4)
        for (int64_t i = part.begin; i < part.end; ++i) to[i * d.o5] = from[i * d.s5];
    }
  }
}

void strided_copy(const Context& context) {
  const auto& d = ints_of<CopyInts>(context);
  const auto& p = operands_of<CopyOperands>(context);
  switch (d.element_bytes) {
    case 1:
      return copy_rows<uint8_t>(d, p.input, p.output, context.thread, context.threads);
    case 2:
      return copy_rows<uint16_t>(d, p.input, p.output, context.thread, context.threads);
    case 4:
      return copy_rows<uint32_t>(d, p.input, p.output, context.thread, context.threads);
    case 8:
      return copy_rows<uint64_t>(d, p.input, p.output, context.thread, context.threads);
    default:
      return;
  }
}

HS_FIELDS(FillOperands, Buffer, output);
HS_FIELDS(FillInts, int64_t, count);
HS_FIELDS(FillFloats, float, value);

void fill(const Context& context) {
  const Range mine = share(ints_of<FillInts>(context).count, 16, context.thread, context.threads);
  const float value = floats_of<FillFloats>(context).value;
  float* output = operands_of<FillOperands>(context).output;
  for (int64_t i = mine.begin; i < mine.end; ++i) output[i] = value;
}

}  // namespace

void add_movement(KernelTable& table) {
  add_kernel(table, {"strided_copy", CopyOperands::names, CopyInts::names, Nothing::names, strided_copy, nullptr,
                     nullptr, nullptr});
  add_kernel(table, {"fill", FillOperands::names, FillInts::names, FillFloats::names, fill, nullptr, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
