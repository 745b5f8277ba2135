// malloc in memory that another program shares at the same addresses: preloaded into the Python of test_emulated.py, so
// that what its arrays' pointers point to is there for the emulated kernels too.
//
// Blocks of powers of two, one free list each, none given back. Behind EMULATED_MEMORY is a file of SHARED_BYTES.
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

#include "shared_memory.h"

namespace {

struct Block { // 64 bytes before what malloc returns
  size_t size; // of what malloc returned
  Block *next;
  char *begin;
};

std::mutex lock;
char *unused = nullptr;
Block *free_blocks[64] = {};

char *map() {
  const char *file = getenv("EMULATED_MEMORY");
  return (char *)map_shared(file ? atoi(file) : -1);
}
int exponent_of(size_t bytes) {
  int n = 6;
  while ((size_t)1 << n < bytes) n++;
  return n;
}
Block *block_of(void *p) { return (Block *)((char *)p - 64); }

void *take(size_t bytes) {
  const int n = exponent_of(bytes + 64);
  std::lock_guard<std::mutex> hold(lock);
  Block *block = free_blocks[n];
  if (block) free_blocks[n] = block->next;
  else {
    if (!unused) unused = map();
    if (((size_t)1 << n) > (size_t)(SHARED_AT + SHARED_BYTES - (uintptr_t)unused)) return nullptr;
    block = (Block *)unused;
    unused += (size_t)1 << n;
  }
  block->size = ((size_t)1 << n) - 64;
  block->next = nullptr;
  block->begin = (char *)block;
  return (char *)block + 64;
}
// A larger alignment: the header stands before the aligned place, and knows where the block begins.
void *take_aligned(size_t alignment, size_t bytes) {
  if (alignment <= 64) return take(bytes);
  char *p = (char *)take(bytes + alignment);
  if (!p) return nullptr;
  char *aligned = (char *)(((uintptr_t)p + alignment - 1) / alignment * alignment);
  if (aligned == p) return p;
  Block *block = block_of(aligned);
  *block = {block_of(p)->size - (size_t)(aligned - p), nullptr, block_of(p)->begin};
  return aligned;
}
void give(void *p) {
  if (!p || (uintptr_t)p - SHARED_AT >= SHARED_BYTES) return; // the loader's own, before this library was there
  Block *block = block_of(p), *whole = (Block *)block->begin;
  const size_t size = block->size + (size_t)((char *)p - block->begin); // a power of two
  std::lock_guard<std::mutex> hold(lock);
  const int n = exponent_of(size);
  whole->next = free_blocks[n];
  free_blocks[n] = whole;
}

} // namespace

extern "C" {
void *malloc(size_t bytes) noexcept { return take(bytes); }
void free(void *p) noexcept { give(p); }
void *calloc(size_t count, size_t size) noexcept {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return nullptr;
  void *p = take(bytes);
  return p ? memset(p, 0, bytes) : p;
}
void *realloc(void *p, size_t bytes) noexcept {
  if (!p) return take(bytes);
  const size_t size = block_of(p)->size;
  if (bytes <= size) return p;
  void *to = take(bytes);
  if (!to) return nullptr;
  memcpy(to, p, size);
  give(p);
  return to;
}
void *memalign(size_t alignment, size_t bytes) noexcept { return take_aligned(alignment, bytes); }
void *aligned_alloc(size_t alignment, size_t bytes) noexcept { return take_aligned(alignment, bytes); }
int posix_memalign(void **p, size_t alignment, size_t bytes) noexcept {
  *p = take_aligned(alignment, bytes);
  return *p ? 0 : ENOMEM;
}
size_t malloc_usable_size(void *p) noexcept { return p ? block_of(p)->size : 0; }
}
