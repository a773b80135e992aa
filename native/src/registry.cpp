// Fills one kernel table per instruction set of the build, on first use.
#include "registry.hpp"

#include <utility>

#include "tables.hpp"

namespace hs {

#define HS_DECLARE(isa)                 \
  namespace isa {                       \
  void add_kernels(KernelTable& table); \
  }
HS_FOR_EACH_ISA(HS_DECLARE)
#undef HS_DECLARE

namespace {

std::vector<std::string> split(std::string_view names) {
  std::vector<std::string> parts;
  while (!names.empty()) {
    const size_t comma = names.find(',');
    std::string_view part = names.substr(0, comma);
    while (!part.empty() && part.front() == ' ') part.remove_prefix(1);
    if (!part.empty()) parts.emplace_back(part);
    if (comma == std::string_view::npos) break;
    names.remove_prefix(comma + 1);
  }
  return parts;
}

struct Isa {
  std::string name;
  KernelTable table;
};

const std::vector<Isa>& isas() {
  static const std::vector<Isa> all = [] {
    std::vector<Isa> found;
#define HS_ADD(isa)                       \
  if (cpu_supports(#isa)) {               \
    found.push_back({#isa, {}});          \
    isa::add_kernels(found.back().table); \
  }
    HS_FOR_EACH_ISA(HS_ADD)
#undef HS_ADD
    return found;
  }();
  return all;
}

}  // namespace

void add_kernel(KernelTable& table, const Kernel& kernel) { table.add(kernel); }

void KernelTable::add(const Kernel& kernel) {
  kernels_.push_back({kernel, split(kernel.operands), split(kernel.ints), split(kernel.floats)});
}

const KernelInfo* KernelTable::find(std::string_view name) const {
  for (const KernelInfo& info : kernels_)
    if (name == info.kernel.name) return &info;
  return nullptr;
}

const std::vector<std::string>& usable_isas() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> found;
    for (const Isa& isa : isas()) found.push_back(isa.name);
    return found;
  }();
  return names;
}

const KernelTable* kernel_table(std::string_view isa) {
  for (const Isa& candidate : isas())
    if (candidate.name == isa) return &candidate.table;
  return nullptr;
}

}  // namespace hs
