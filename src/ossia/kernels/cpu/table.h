// The functions of one instruction set. api.cpp picks one table when the library is loaded.
#pragma once

#include "sampling.h"
#include "weights.h"

#include <cstddef>

namespace ossia {

// Bytes of the stream of weights that are fetched in advance, a line at a time between the arithmetic: of many tokens
// or of MXFP4, and of dense weights that meet a few tokens only. 0: the CPU follows such a stream better by itself.
struct Fetch {
  size_t ahead, few_dense, few_direct; // `few_direct`: few_dense of tiles_direct.inc
};
extern const Fetch fetch; // of this CPU: the table is in api.cpp

struct Table {
  const char *name;
  void (*rms_norm)(const float *x, const float *scale, float eps, int rows, int width, uint16_t *out);
  void (*dense)(const DenseWeight *w, const uint16_t *x, int rows, float *out, int64_t ld, int add);
  void (*expert_linear)(const ExpertWeight *w, int expert, int activations, const uint16_t *x, int tokens, float *out);
  void (*moe_route)(const MoeHalf *m, const float *x, int tokens, int32_t *choice, float *weight);
  void (*moe_half)(const MoeHalf *m, float *x, int tokens);
  size_t (*dense_bytes)(const DenseWeight *w);
  size_t (*expert_bytes)(const ExpertWeight *w);
  void (*pack_dense)(const DenseWeight *w, uint8_t *out);
  void (*pack_expert)(const ExpertWeight *w, int expert, uint8_t *out);
  void (*rope_kv)(const KvLayer *kv, const Step *step, int windowed, int heads, const float *qkv, uint16_t *q);
  void (*copy_page)(const KvLayer *kv, int from, int to);
  void (*attention)(const KvLayer *kv, const Step *step, const uint16_t *q, const float *sinks, float scale, int heads,
                    int window, int part, uint16_t *out);
  void (*attention_half)(const AttentionHalf *half, const KvLayer *kv, const Step *step, float *x);
  void (*sample)(SampleRow *rows, int count, int vocab);
  void (*swiglu_forward)(const float *h, float limit, int64_t rows, int width, float *a);
  void (*swiglu_backward)(const float *h, const float *da, const float *weight, float limit, int64_t rows, int width,
                          float *dh, float *a, float *dweight);
  void (*add_rows)(const float *x, const int64_t *row, const float *scale, int64_t rows, int width, float *out);
  void (*cross_entropy)(float *logits, const int64_t *target, int64_t rows, int vocab, float *loss);
  void (*norm_forward)(const float *x, const float *scale, float eps, int64_t rows, int width, float *out,
                       float *inverse);
  void (*norm_backward)(const float *x, const float *scale, const float *inverse, const float *grad, int64_t rows,
                        int width, float *dx, float *dscale);
  void (*rotate_heads)(const float *x, const float *cos, const float *sin, float sign, int64_t rows, int heads,
                       int half, float *out);
  int64_t (*attention_training_room)(const TrainingAttention *t, int backward);
  void (*attention_training_forward)(const TrainingAttention *t, float *room, float *o, float *lse);
  void (*attention_training_backward)(const TrainingAttention *t, float *room, const float *o, const float *lse,
                                      const float *grad, float *dq, float *dk, float *dv, float *dsink);
};

} // namespace ossia
