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
    if (row && ossia::cpu_has(row->name) && n-- == 0) return row;
  return nullptr;
}

// By the best instruction set of the CPU, whichever works. A core of Zen 3 (AVX2) reads 10.1 GB/s of dense weights
// without fetching and 11.7 with; one of Zen 4 (AVX-512) 24.5 and 17.8; one of Zen 5 (AMD's, with AVX-VNNI besides) 27 and
// 34. Nobody has measured the others. The kernels of "avx512" fetch into the second cache, which has room for more, and
// are best with half a kilobyte on Zen 4, with two on Zen 5.
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

// out[t * ld + r] = (add ? itself : 0) + (W x_t + bias)[r] for x [rows, cols] bfloat16.
void ossia_dense(const DenseWeight *w, const uint16_t *x, int rows, float *out, int64_t ld, int add) {
  Call call;
  chosen->dense(w, x, rows, out, ld, add);
}
// out[tokens, rows] of one expert, for x [tokens, cols] bfloat16.
void ossia_expert_linear(const ExpertWeight *w, int expert, int activations, const uint16_t *x, int tokens, float *out) {
  Call call;
  chosen->expert_linear(w, expert, activations, x, tokens, out);
}
// The experts that norm and router choose for x [tokens, D] float32, and their weights: [tokens, top_k].
void ossia_route(const MoeHalf *m, const float *x, int tokens, int32_t *choice, float *weight) {
  Call call;
  chosen->moe_route(m, x, tokens, choice, weight);
}
// x [tokens, D] += experts(norm(x)).
void ossia_moe_half(const MoeHalf *m, float *x, int tokens) {
  Call call;
  chosen->moe_half(m, x, tokens);
}

// Training's pieces work on the calling thread, and any number of threads may be in them.
void ossia_swiglu_forward(const float *h, float limit, int64_t rows, int width, float *a) {
  chosen->swiglu_forward(h, limit, rows, width, a);
}
void ossia_swiglu_backward(const float *h, const float *da, const float *weight, float limit, int64_t rows, int width,
                           float *dh, float *a, float *dweight) {
  chosen->swiglu_backward(h, da, weight, limit, rows, width, dh, a, dweight);
}
// scale may be null: 1.
void ossia_add_rows(const float *x, const int64_t *row, const float *scale, int64_t rows, int width, float *out) {
  chosen->add_rows(x, row, scale, rows, width, out);
}
void ossia_cross_entropy(float *logits, const int64_t *target, int64_t rows, int vocab, float *loss) {
  chosen->cross_entropy(logits, target, rows, vocab, loss);
}
void ossia_norm_forward(const float *x, const float *scale, float eps, int64_t rows, int width, float *out,
                        float *inverse) {
  chosen->norm_forward(x, scale, eps, rows, width, out, inverse);
}
void ossia_norm_backward(const float *x, const float *scale, const float *inverse, const float *grad, int64_t rows,
                         int width, float *dx, float *dscale) {
  chosen->norm_backward(x, scale, inverse, grad, rows, width, dx, dscale);
}
void ossia_rotate_heads(const float *x, const float *cos, const float *sin, float sign, int64_t rows, int heads,
                        int half, float *out) {
  chosen->rotate_heads(x, cos, sin, sign, rows, heads, half, out);
}
// Floats of `room` that forward (0) or backward (1) need.
int64_t ossia_attention_training_room(const TrainingAttention *t, int backward) {
  return chosen->attention_training_room(t, backward);
}
void ossia_attention_training_forward(const TrainingAttention *t, float *room, float *o, float *lse) {
  chosen->attention_training_forward(t, room, o, lse);
}
// dk, dv and dsink are added to.
void ossia_attention_training_backward(const TrainingAttention *t, float *room, const float *o, const float *lse,
                                       const float *grad, float *dq, float *dk, float *dv, float *dsink) {
  chosen->attention_training_backward(t, room, o, lse, grad, dq, dk, dv, dsink);
}

// Returns once no call is running: whatever calls before this one could read, none does any more.
void ossia_fence() { Call call; }

// Packing neither waits for calls that are running nor holds them up: for a thread in the background.
int64_t ossia_dense_bytes(const DenseWeight *w) { return (int64_t)chosen->dense_bytes(w); }
void ossia_pack_dense(const DenseWeight *w, uint8_t *out) { chosen->pack_dense(w, out); }
// Of one expert; `count` experts from `first` on are packed one behind the other, the first at `out`.
int64_t ossia_expert_bytes(const ExpertWeight *w) { return (int64_t)chosen->expert_bytes(w); }
void ossia_pack_experts(const ExpertWeight *w, int first, int count, uint8_t *out) {
  for (int e = 0; e < count; e++) chosen->pack_expert(w, first + e, out + (size_t)e * chosen->expert_bytes(w));
}

void ossia_rope_kv(const KvLayer *kv, const Step *step, int windowed, int heads, const float *qkv, uint16_t *q) {
  Call call;
  chosen->rope_kv(kv, step, windowed, heads, qkv, q);
}
void ossia_copy_page(const KvLayer *kv, int from, int to) {
  Call call;
  chosen->copy_page(kv, from, to);
}
// part: 0 for what attention_half uses; tests give less (a multiple of 64).
void ossia_attention(const KvLayer *kv, const Step *step, const uint16_t *q, const float *sinks, float scale, int heads,
                     int window, int part, uint16_t *out) {
  Call call;
  chosen->attention(kv, step, q, sinks, scale, heads, window, part, out);
}
void ossia_attention_half(const AttentionHalf *half, const KvLayer *kv, const Step *step, float *x) {
  Call call;
  chosen->attention_half(half, kv, step, x);
}

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

void ossia_sample(ossia::SampleRow *rows, int count, int vocab) {
  Call call;
  chosen->sample(rows, count, vocab);
}
}
#pragma GCC visibility pop
