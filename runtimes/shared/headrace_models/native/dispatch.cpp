#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace headrace {

const Kernels* select_kernels() {
  const Kernels* possible[3];
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
    possible[count++] = &kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    possible[count++] = &kAvx2;
#endif
  possible[count++] = &kPortable;
  const char* name = getenv("HEADRACE_ISA");
  if (!name || !*name) return possible[0];
  for (int i = 0; i < count; ++i)
    if (!strcmp(possible[i]->name, name)) return possible[i];
  return nullptr;
}

}  // namespace headrace
