// The library's face: a plain C interface, and the choice of the instruction set. Arguments are checked in Python.
#include "cpu_features.h"
#include "pool.h"
#include "table.h"

#include <cstdlib>
#include <cstring>

// One row an instruction set: its unit is compiled with flags of its own (build.py). A unit that this compiler could not
// make is missing from the library, and its table is null.
#define OSSIA_ROW(isa)                                                                                                 \
  namespace isa {                                                                                                      \
  extern const ossia::Table table __attribute__((weak));                                                               \
  }
OSSIA_ROW(generic)
#if defined(__x86_64__)
OSSIA_ROW(avx2)
OSSIA_ROW(avxvnni)
OSSIA_ROW(avx512_bw)
OSSIA_ROW(avx512_vnni)
OSSIA_ROW(avx512)
#elif defined(__aarch64__)
OSSIA_ROW(neon)
OSSIA_ROW(neon_dot)
OSSIA_ROW(neon_mmla)
#endif

namespace {

// Best first.
const ossia::Table *const ROWS[] = {
#if defined(__x86_64__)
    &avx512::table, &avx512_vnni::table, &avx512_bw::table, &avxvnni::table, &avx2::table,
#elif defined(__aarch64__)
    &neon_mmla::table, &neon_dot::table, &neon::table,
#endif
    &generic::table,
};

// The n-th that this CPU offers; null behind the last.
const ossia::Table *offered(int n) {
  for (const ossia::Table *row : ROWS)
    if (row && ossia::cpu_has(row->isa) && n-- == 0) return row;
  return nullptr;
}

// By the best instruction set of the CPU, whichever works. A core of Zen 3 (AVX2) reads 10.1 GB/s of dense weights
// without fetching and 11.7 with; one of Zen 4 (AVX-512) 24.5 and 17.8; one of Zen 5 (AMD's, with AVX-VNNI besides) 27 and
// 34. Nobody has measured the others. The kernels of linears fetch into the second cache, which has room for more: on Zen 4
// those of AVX2 are as good with 17 to 70 KB there, and a tenth slower with 17 KB in the first. Those of "avx512" are
// best with half a kilobyte for a few tokens on Zen 4, with two on Zen 5.
constexpr ossia::Fetch ZEN5 = {17408, 17408, 2112};
constexpr struct {
  const char *isa;
  ossia::Fetch fetch;
} FETCHES[] = {
    {"avx512", {17408, 0, 512}}, {"avx512_bw", {8704, 0, 0}}, {"avxvnni", {8704, 8704, 0}},
    {"avx2", {8704, 8704, 0}},   {"neon", {8704, 0, 0}},      {"generic", {8704, 0, 0}},
};
ossia::Fetch fetch_of_this_cpu() {
#if defined(__x86_64__)
  if (ossia::cpu_has("avx512") && ossia::cpu_has("avxvnni") && __builtin_cpu_is("amd")) return ZEN5;
#endif
  for (const auto &row : FETCHES)
    if (ossia::cpu_has(row.isa)) return row.fetch;
  return {8704, 0, 0};
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

const ossia::Fetch ossia::fetch = fetch_of_this_cpu();

#pragma GCC visibility push(default)
extern "C" {

// Name of the n-th instruction set that this CPU offers, best first; null behind the last.
const char *ossia_offered(int n) {
  const ossia::Table *table = offered(n);
  return table ? table->isa : nullptr;
}
const char *ossia_isa() { return chosen->isa; }
// 1 if this CPU offers it. Not while another call is running.
int ossia_choose(const char *name) {
  for (int n = 0; offered(n); n++)
    if (!strcmp(offered(n)->isa, name)) {
      chosen = offered(n);
      return 1;
    }
  return 0;
}

int ossia_threads() { return ossia::pool_threads(); }
void ossia_set_threads(int threads) { ossia::set_pool_threads(threads); }

using ossia::SampleRow;

#define OSSIA_locked(result, name, parameters, arguments)                                                              \
  result ossia_##name parameters {                                                                                     \
    Call call;                                                                                                         \
    return chosen->name arguments;                                                                                     \
  }
#define OSSIA_free(result, name, parameters, arguments)                                                                \
  result ossia_##name parameters { return chosen->name arguments; }
#define KERNEL(how, result, name, parameters, arguments) OSSIA_##how(result, name, parameters, arguments)
#include "kernel_list.inc"
#undef KERNEL

// Returns once no call is running: whatever calls before this one could read, none does any more.
void ossia_fence() { Call call; }

// x: float32 [T, D] goes through `count` layers; kv: the cache of each.
void ossia_layers(const Layer *layers, const KvLayer *const *kv, int count, const Step *step, float *x) {
  Call call;
  for (int n = 0; n < count; n++) {
    ossia::scratch_reset();
    chosen->attention_half(layers[n].attention, kv[n], step, x);
    ossia::scratch_reset();
    chosen->moe_half(layers[n].moe, x, step->tokens);
  }
}
}
#pragma GCC visibility pop
