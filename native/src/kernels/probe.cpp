// What the machine can do at most, for benchmarks to compare with: chains of multiply-adds in registers.
#include "simd.hpp"

namespace hs::HS_ISA {
namespace {

HS_FIELDS(Operands, Buffer, output);  // floating-point operations that each thread did, float32 (threads,)
HS_FIELDS(Ints, int64_t, rounds);

void probe_peak(const Context& context) {
  constexpr int kChains = kWidth == 16 ? 24 : 12;
  Vec sum[kChains];
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) sum[i] = broadcast(static_cast<float>(i));
  Vec x = broadcast(0.999f), y = broadcast(0.001f);
  const int64_t rounds = ints_of<Ints>(context).rounds;
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) sum[i] = sum[i] * x + y;
  }
  Vec total = zero();
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) total += sum[i];
  const float done = static_cast<float>(rounds) * kChains * kWidth * 2;
  static_cast<float*>(operands_of<Operands>(context).output)[context.thread] = total[0] > -1.0f ? done : 0.0f;
}

}  // namespace

void add_probe(KernelTable& table) {
  add_kernel(table,
             {"probe_peak", Operands::names, Ints::names, Nothing::names, probe_peak, nullptr, nullptr, nullptr});
}

}  // namespace hs::HS_ISA
