// What the CPU can do, asked once when the module is loaded.
#include "registry.hpp"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace hs {

bool cpu_supports(std::string_view isa) {
  if (isa == "portable") return true;
#if defined(__x86_64__)
  // The compiler's runtime also asks the operating system whether it saves the wide registers.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (isa == "avx2") return avx2;
  if (isa == "avx512") return avx512;
  if (isa == "avx512_vnni") {
    return avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") &&
           __builtin_cpu_supports("avx512vbmi");
  }
#elif defined(__aarch64__)
  if (isa == "neon") return true;
#if defined(__linux__)
  if (isa == "neon_dot") return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
  if (isa == "neon_dot") return true;
#endif
#endif
  return false;
}

}  // namespace hs
