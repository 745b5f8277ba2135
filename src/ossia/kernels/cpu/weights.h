// What Python hands over: plain C structures, mirrored field by field in library.py. Knows no instruction set.
//
// A weight has up to two forms. `raw` is as published, usually in the mapped file; `packed` is what `pack_*` made of it
// (layouts in pack.inc). Where `packed` is set it is used; both give the same bits, so it may be set at any moment by
// another thread: kernels read the pointer once per task.
#pragma once

#include <cstdint>

extern "C" {

enum DenseKind : int32_t { DENSE_BF16 = 0, DENSE_INT8 = 1 };
enum Activations : int32_t { ACTIVATIONS_BF16 = 0, ACTIVATIONS_INT8 = 1 };

// [rows, cols] bfloat16 row-major in `raw`; int8 weights are quantized from it, on the way or once when packed.
struct DenseWeight {
  const uint16_t *raw;
  const uint8_t *packed;
  const float *bias; // [rows] or null
  int32_t rows, cols;
  int32_t kind; // DenseKind
};

// E matrices [rows, cols] in MXFP4: blocks uint8 [E, rows, cols/32, 16], scales uint8 [E, rows, cols/32].
// `interleaved`: rows are gate, linear, gate, linear, ... (gate_up); packing puts the 16 gates of 32 rows before the 16
// linears.
struct ExpertWeight {
  const uint8_t *blocks, *scales;
  const uint8_t *packed;
  const float *bias; // [E, rows]
  int32_t experts, rows, cols;
  int32_t interleaved;
};

// The rows of a batch and where their keys and values lie. Two kinds of layers: 0 full attention, 1 windowed.
struct Step {
  int32_t tokens, sequences;
  const int32_t *begin;    // [S + 1] first token of each sequence in the batch, then T
  const int32_t *start;    // [S] position of that token
  const int32_t *pages[2]; // per kind [S, stride] page numbers
  int32_t stride[2];
  const int32_t *first_page[2]; // [S] pages[s][0] holds positions first_page * PAGE ...
  const float *cos, *sin;       // [T, head_dim / 2], concentration included
};

enum KvKind : int32_t { KV_BF16 = 0, KV_INT8 = 1 };
enum : int32_t { KV_PAGE = 16, KV_MAX_HEAD = 512 }; // positions of a page; head_dim: multiples of 16 up to this

// Keys and values of one layer in pages of 16 positions, aligned to 64 bytes (best: to 4096): [page][kv head] of
//   keys [head_dim / 2][16 positions][2], values [16 / 2 positions][head_dim][2], bfloat16; or both in int8, and then
//   float [16 positions] scales of the keys, float [16] of the values: value = int8 * scale.
// A page of one kv head takes 64 * head_dim or 32 * head_dim + 128 bytes. It is what one task reads at a time: keys and
// values lie together, since memory is read at half the rate in pieces of less than 4 KB.
struct KvLayer {
  uint8_t *pages;
  int32_t kv_heads, head_dim;
  int32_t kind; // KvKind
};

struct AttentionHalf {
  const float *norm; // [D]
  DenseWeight q, k, v, out;
  const float *sinks; // [heads] or null
  float eps, score_scale;
  int32_t heads, window; // window 0: full attention
};

struct TrainingAttention {
  const float *q, *k, *v, *sink; // [T, H, h], [N, K, h], [N, K, h]; [H] or null
  const int64_t *lo, *hi;        // [T]
  float scale;
  int32_t queries, keys, heads, kv_heads, width; // T, N, H, K, h
};

struct MoeHalf {
  const float *norm;            // [D]
  const uint16_t *router;       // bfloat16 [E, D], or null: one expert for all tokens
  const float *router_bias;     // [E]
  ExpertWeight gate_up, down;
  float eps, limit;
  int32_t top_k;
  int32_t activations; // Activations
};

struct Layer {
  const AttentionHalf *attention;
  const MoeHalf *moe;
};
}
