// What sampling is told of a row of logits, and what it answers. Mirrored field by field in library.py.
#pragma once

#include <cstdint>

namespace ossia {

struct SampleRow {
  const float *logits;    // [vocab]; only read
  const uint32_t *mask;   // bit i of word w allows id 32 w + i; null: every id
  const int32_t *ids;     // [edits], each id once, in any order: those whose logits are changed
  const int32_t *counts;  // [edits] occurrences in the answer
  const uint8_t *seen;    // [edits] whether the repetition penalty holds
  const float *bias;      // [edits]
  int32_t *top_ids;       // [top] out, likeliest first
  float *top_logprobs;    // [top] out
  double uniform;         // in [0, 1)
  double top_p;           // 1: off
  double logprob;         // out: of the token, in the distribution of the unchanged logits
  float inverse_temperature; // 0: take the likeliest
  float log_min_p;        // -inf: off
  float repetition, presence, frequency;
  int32_t mask_words, edits, top_k, top;
  int32_t token;          // out
  int32_t status;         // out, a SampleStatus
};

enum SampleStatus { SAMPLED = 0, NOT_A_NUMBER = 1, NOTHING_ALLOWED = 2 };

} // namespace ossia
