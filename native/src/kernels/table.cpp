// Registers every kernel family of this instruction set.
#include "isa.hpp"
#include "tables.hpp"

namespace hs::HS_ISA {

#define HS_DECLARE(family) void add_##family(KernelTable& table);
HS_FOR_EACH_FAMILY(HS_DECLARE)
#undef HS_DECLARE

void add_kernels(KernelTable& table) {
#define HS_ADD(family) add_##family(table);
  HS_FOR_EACH_FAMILY(HS_ADD)
#undef HS_ADD
}

}  // namespace hs::HS_ISA
