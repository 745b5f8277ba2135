// The library's face: a plain C interface, and the choice of the instruction set. Arguments are checked in Python.
#include "pool.h"
#include "table.h"

#include <cstdlib>
#include <cstring>

namespace generic {
extern const ossia::Table table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const ossia::Table table;
}
namespace avx512 {
extern const ossia::Table table;
}
#endif

namespace {

// Best first. A CPU with AVX-512 but without its bfloat16 and int8 dot products is served by AVX2.
const ossia::Table *offered(int n) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool has512 = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512dq");
  bool has2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has512 && n-- == 0) return &avx512::table;
  if (has2 && n-- == 0) return &avx2::table;
#endif
  return n == 0 ? &generic::table : nullptr;
}

const ossia::Table *chosen = offered(0);

struct Call { // one at a time; its scratch is free again afterwards
  Call() {
    ossia::lock_pool();
    ossia::scratch_reset();
  }
  ~Call() { ossia::unlock_pool(); }
};

} // namespace

#pragma GCC visibility push(default)
extern "C" {

// Name of the n-th instruction set that this CPU offers, best first; null behind the last.
const char *ossia_offered(int n) {
  const ossia::Table *table = offered(n);
  return table ? table->name : nullptr;
}
const char *ossia_isa() { return chosen->name; }
// 1 if this CPU offers it. Not while another call is running.
int ossia_choose(const char *name) {
  for (int n = 0; offered(n); n++)
    if (!strcmp(offered(n)->name, name)) {
      chosen = offered(n);
      return 1;
    }
  return 0;
}

int ossia_threads() { return ossia::pool_threads(); }
void ossia_set_threads(int threads) { ossia::set_pool_threads(threads); }

void ossia_rms_norm(const float *x, const float *scale, float eps, int rows, int width, uint16_t *out) {
  Call call;
  chosen->rms_norm(x, scale, eps, rows, width, out);
}
}
#pragma GCC visibility pop
