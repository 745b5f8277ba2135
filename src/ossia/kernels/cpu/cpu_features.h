// Whether this CPU, and its operating system, can run an instruction set of ours. Knows the names and nothing else.
#pragma once

#include <cstddef>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace ossia {

#if defined(__x86_64__)

inline bool cpu_has(const char *isa) {
  __builtin_cpu_init();
  if (!strcmp(isa, "generic")) return true;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
  if (!strcmp(isa, "avx2")) return true;
  if (!strcmp(isa, "avxvnni")) { // compilers' names for it are too young
    unsigned a = 0, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
  }
  if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return false;
  if (!__builtin_cpu_supports("avx512dq")) return false;
  if (!strcmp(isa, "avx512_bw")) return true;
  if (!__builtin_cpu_supports("avx512vnni")) return false;
  if (!strcmp(isa, "avx512_vnni")) return true;
  return !strcmp(isa, "avx512") && __builtin_cpu_supports("avx512bf16");
}

#elif defined(__aarch64__)

// `apple` as sysctl calls it; `word` and `bit` as Linux's auxiliary vector has it: 16 is AT_HWCAP, 26
// AT_HWCAP2.
inline bool arm_has(const char *apple, unsigned long word, int bit) {
#if defined(__APPLE__)
  int value = 0;
  size_t size = sizeof value;
  (void)word, (void)bit;
  return !sysctlbyname(apple, &value, &size, nullptr, 0) && value;
#elif defined(__linux__)
  (void)apple;
  return getauxval(word) >> bit & 1;
#else
  (void)apple, (void)word, (void)bit;
  return false;
#endif
}

inline bool cpu_has(const char *isa) {
  if (!strcmp(isa, "generic") || !strcmp(isa, "neon")) return true;
  if (!arm_has("hw.optional.arm.FEAT_DotProd", 16, 20)) return false;
  if (!strcmp(isa, "neon_dot")) return true;
  return !strcmp(isa, "neon_mmla") && arm_has("hw.optional.arm.FEAT_I8MM", 26, 13) &&
         arm_has("hw.optional.arm.FEAT_BF16", 26, 14);
}

#else

inline bool cpu_has(const char *isa) { return !strcmp(isa, "generic"); }

#endif

} // namespace ossia
