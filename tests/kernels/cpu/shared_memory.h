// Where the memory lies that the emulated kernels share with their tests: at the same address in both programs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <sys/mman.h>

constexpr uintptr_t SHARED_AT = 0x200000000000;
constexpr size_t SHARED_BYTES = (size_t)2 << 30;

inline void *map_shared(int file) {
  void *p = mmap((void *)SHARED_AT, SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
  if (p != (void *)SHARED_AT) abort();
  return p;
}
