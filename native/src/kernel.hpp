// What a kernel is to the executor: a name, a schema, and plain functions.
// Only plain data stands here: the file is read by sources of every instruction set, and an inline function compiled
// for AVX-512 could otherwise be the one that the linker keeps for everybody.
#pragma once
#include <cstdint>

namespace hs {

// One call of a kernel by one thread of the team. All threads get the same call and share the work out statically.
struct Context {
  void* const* operands;  // one pointer per operand of the schema; null where the operand is absent
  const int64_t* ints;
  const float* floats;
  int thread;
  int threads;
  void (*barrier)(void* team, int thread);  // all threads of the team must call it
  void* team;
};

// An array given to a packing function. `type` is 'f' float32, 'b' int8, 'B' uint8, 'h' int16, 'i' int32, 'H' 16 raw
// bits.
struct PackInput {
  const void* data;
  int64_t elements;
  char type;
};

struct Kernel {
  const char* name;
  const char* operands;  // names, separated by ", "
  const char* ints;
  const char* floats;
  void (*run)(const Context&);
  // Bytes of the operand "workspace" for these ints, on so many threads; null: the kernel needs none.
  int64_t (*workspace_bytes)(const int64_t* ints, int threads);
  // Constants in the layout that the kernel reads; null: nothing to pack. `pack` returns null or what is wrong.
  int64_t (*packed_bytes)(const int64_t* ints);
  const char* (*pack)(const int64_t* ints, const PackInput* inputs, int count, void* packed);
};

// Collects the kernels of one instruction set.
class KernelTable;
void add_kernel(KernelTable& table, const Kernel& kernel);

// Activations, fused or alone. Codes are part of the interface to Python (`activations()`).
// clang-format off
#define HS_FOR_EACH_ACTIVATION(X)                                                                                      \
  X(none)                                                                                                              \
  X(relu) X(relu6) X(clip) X(leaky_relu) X(hard_sigmoid) X(hard_swish) X(sigmoid) X(silu) X(tanh) X(gelu) X(gelu_tanh) \
      X(elu) X(exp) X(log) X(sqrt) X(neg) X(abs) X(softplus) X(mish) X(reciprocal) X(square) X(erf) X(floor)
// clang-format on
enum class Activation : int64_t {
#define HS_NAME(name) name,
  HS_FOR_EACH_ACTIVATION(HS_NAME)
#undef HS_NAME
};

}  // namespace hs
