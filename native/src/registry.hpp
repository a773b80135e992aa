// Which instruction sets this build and this CPU have, and the kernels of each, by name.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kernel.hpp"

namespace hs {

struct KernelInfo {
  Kernel kernel;
  std::vector<std::string> operands, ints, floats;  // the schema, split
};

class KernelTable {
 public:
  const KernelInfo* find(std::string_view name) const;
  const std::vector<KernelInfo>& all() const { return kernels_; }
  void add(const Kernel& kernel);

 private:
  std::vector<KernelInfo> kernels_;
};

// Usable on this CPU, best first; "portable" is always among them unless the build left it out.
const std::vector<std::string>& usable_isas();
// Null where `isa` is unknown or the CPU lacks it.
const KernelTable* kernel_table(std::string_view isa);

bool cpu_supports(std::string_view isa);

}  // namespace hs
