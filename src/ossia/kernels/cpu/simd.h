// The operations that differ between instruction sets, and what is built of them alike on all.
//
// Kernels are written once over the vectors of lanes.h and compiled once per instruction set. An operation of its own
// is written for one register (a part), and `OSSIA_PAIRWISE` extends it to vectors of several. Every float operation
// that matters is written out as fma / mul / add; the library is compiled with -ffp-contract=off, so that one source
// line gives the same bits wherever it is inlined. Knows no model and no layout.
#pragma once

#include "lanes.h"

#if defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#elif defined(OSSIA_NEON)
#include <arm_neon.h>
#endif

// How products of weights and activations are best done. DIRECT: weights are decoded in registers beside the dot
// products, which wait for nothing (tiles_direct.inc). Otherwise a panel of weights is decoded first and then used for
// all tokens (tiles_panel.inc), with dot products of four bytes where there are some.
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#define OSSIA_DIRECT 1
#endif
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || (defined(OSSIA_NEON) && defined(__ARM_FEATURE_DOTPROD))
#define OSSIA_DOT4 1
#endif
// OSSIA_NEON is defined by the units of ARM's rows, whose loops over bytes are in tiles_neon.inc; the generic unit is
// plain C++ there too. Where bytes are multiplied as they are, activations are not widened to words beforehand.
#if defined(OSSIA_DOT4) || defined(OSSIA_NEON)
#define OSSIA_BYTES 1
#endif
// MATRIX: instructions that multiply two rows with two tokens, of int8 (tiles_neon.inc) and of bfloat16
// (tiles_matrix.inc). DOT2: a dot product of bfloat16.
#if defined(OSSIA_NEON) && defined(__ARM_FEATURE_MATMUL_INT8) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define OSSIA_MATRIX 1
#endif
#if defined(OSSIA_DIRECT) || defined(OSSIA_MATRIX)
#define OSSIA_DOT2 1
#endif

namespace OSSIA_ISA {

typedef Vector<float, OSSIA_PART> F32;
typedef Vector<int32_t, OSSIA_PART> I32;
typedef Vector<uint32_t, OSSIA_PART> U32;
typedef Vector<int16_t, OSSIA_PART> I16;
typedef Vector<uint16_t, OSSIA_PART> U16;
typedef Vector<uint8_t, OSSIA_PART> U8;

// name(part ...) for vectors of several parts; the result has the lanes of the first.
#define OSSIA_PAIRWISE_1(name)                                                                                         \
  template <class A, int B> INLINE Pair<A, B> name(Pair<A, B> a) { return {name(a.lo), name(a.hi)}; }
#define OSSIA_PAIRWISE_2(name)                                                                                         \
  template <class A, class X, int B> INLINE Pair<A, B> name(Pair<A, B> a, Pair<X, B> x) {                              \
    return {name(a.lo, x.lo), name(a.hi, x.hi)};                                                                       \
  }
#define OSSIA_PAIRWISE_3(name)                                                                                         \
  template <class A, class X, class Y, int B> INLINE Pair<A, B> name(Pair<A, B> a, Pair<X, B> x, Pair<Y, B> y) {       \
    return {name(a.lo, x.lo, y.lo), name(a.hi, x.hi, y.hi)};                                                           \
  }

// The value is made here and is in a register. Without it GCC makes all the products of an unrolled loop before it adds
// them up, and has no registers for them.
template <class V> INLINE void pin(V &v) {
  V held = v; // of its own: what an asm writes itself stays in memory where it is an element of an array
#if defined(__AVX512F__)
  asm("" : "+v"(held));
#elif defined(__SSE2__)
  asm("" : "+x"(held));
#elif defined(__aarch64__)
  asm("" : "+w"(held));
#endif
  v = held;
}

// What is read from p next is read again even if it was read before: a load is cheaper than a register held.
INLINE void reread(const uint8_t *&p) { asm("" : "+r"(p)); }

// ---- floats -----------------------------------------------------------------------------------------

#if defined(__AVX512F__)
INLINE F32 fma(F32 a, F32 b, F32 c) { return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE F32 vmax(F32 a, F32 b) { return (F32)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE F32 vmin(F32 a, F32 b) { return (F32)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE F32 round_even(F32 a) { return (F32)_mm512_roundscale_ps((__m512)a, 8); }
#elif defined(__AVX2__)
INLINE F32 fma(F32 a, F32 b, F32 c) { return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE F32 vmax(F32 a, F32 b) { return (F32)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE F32 vmin(F32 a, F32 b) { return (F32)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE F32 round_even(F32 a) { return (F32)_mm256_round_ps((__m256)a, 8); }
#elif defined(OSSIA_NEON)
INLINE F32 fma(F32 a, F32 b, F32 c) { return (F32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE F32 vmax(F32 a, F32 b) { return pick(a > b, a, b); } // as x86 has it: b where either is no number
INLINE F32 vmin(F32 a, F32 b) { return pick(a < b, a, b); }
INLINE F32 round_even(F32 a) { return (F32)vrndnq_f32((float32x4_t)a); }
#else
INLINE F32 fma(F32 a, F32 b, F32 c) { return a * b + c; } // two roundings: the same everywhere in this ISA
INLINE F32 vmax(F32 a, F32 b) { return pick(a > b, a, b); }
INLINE F32 vmin(F32 a, F32 b) { return pick(a < b, a, b); }
INLINE F32 round_even(F32 a) {
  const F32 magic = (F32){} + 12582912.0f; // 1.5 * 2^23: for |a| < 2^22, which is all that is asked for here
  return (a + magic) - magic;
}
#endif
INLINE F32 to_float(I32 v) { return __builtin_convertvector(v, F32); }
INLINE I32 to_int(F32 a) { return __builtin_convertvector(a, I32); } // truncates: round first

OSSIA_PAIRWISE_3(fma)
OSSIA_PAIRWISE_2(vmax)
OSSIA_PAIRWISE_2(vmin)
OSSIA_PAIRWISE_1(round_even)
template <int B> INLINE Pair<float, B> to_float(Pair<int32_t, B> v) { return {to_float(v.lo), to_float(v.hi)}; }
template <int B> INLINE Pair<int32_t, B> to_int(Pair<float, B> v) { return {to_int(v.lo), to_int(v.hi)}; }

// The first n lanes (0 to 16) of what p points to, zeros behind: nothing beyond is read.
INLINE f32x16 load_first(const float *p, int n) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  if (n == 16) return load<f32x16>(p);
  float first[16] = {};
  memcpy(first, p, (size_t)n * sizeof(float));
  return load<f32x16>(first);
#endif
}
INLINE void store_first(float *p, f32x16 v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
  if (n == 16) return store(p, v);
  float all[16];
  store(all, v);
  memcpy(p, all, (size_t)n * sizeof(float));
#endif
}

INLINE float sum(f32x16 v) { // a fixed tree
  auto a = low_half(v) + high_half(v);
  auto b = low_half(a) + high_half(a);
  return (b[0] + b[2]) + (b[1] + b[3]);
}
INLINE float largest(f32x16 v) {
  auto a = pick(low_half(v) > high_half(v), low_half(v), high_half(v));
  auto b = pick(low_half(a) > high_half(a), low_half(a), high_half(a));
  float x = b[0] > b[2] ? b[0] : b[2], y = b[1] > b[3] ? b[1] : b[3];
  return x > y ? x : y;
}
// The largest lane in every lane: the order of comparisons cannot matter, so each instruction set has its own.
INLINE f32x16 spread_largest(f32x16 v) {
#if defined(__AVX512F__)
  __m512 a = (__m512)v;
  a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0x4e));
  a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0xb1));
  a = _mm512_max_ps(a, _mm512_permute_ps(a, 0x4e));
  return (f32x16)_mm512_max_ps(a, _mm512_permute_ps(a, 0xb1));
#elif OSSIA_PART == 16
  F32 a = vmax(vmax(v.lo.lo, v.lo.hi), vmax(v.hi.lo, v.hi.hi));
  a = vmax(a, __builtin_shufflevector(a, a, 2, 3, 0, 1));
  a = vmax(a, __builtin_shufflevector(a, a, 1, 0, 3, 2));
  return {{a, a}, {a, a}};
#else
  return set1(largest(v));
#endif
}

// |v| as the integers that order floats: infinity is above every number, NaN above infinity.
INLINE i32x16 sizes(f32x16 v) { return (i32x16)v & 0x7fffffff; }
template <class V> INLINE V imax(V a, V b) { return pick(a > b, a, b); }
#if defined(__AVX512F__)
INLINE I32 imax(I32 a, I32 b) { return (I32)_mm512_max_epi32((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__) // GCC makes a comparison and a choice of it
INLINE I32 imax(I32 a, I32 b) { return (I32)_mm256_max_epi32((__m256i)a, (__m256i)b); }
template <int B> INLINE Pair<int32_t, B> imax(Pair<int32_t, B> a, Pair<int32_t, B> b) {
  return {imax(a.lo, b.lo), imax(a.hi, b.hi)};
}
#endif
// The largest of such sizes as a float again; NaN where there was one.
INLINE float largest_size(i32x16 v) {
  auto a = imax(low_half(v), high_half(v));
  auto b = imax(low_half(a), high_half(a));
  int32_t x = b[0] > b[2] ? b[0] : b[2], y = b[1] > b[3] ? b[1] : b[3];
  x = x > y ? x : y;
  float size;
  memcpy(&size, &x, 4);
  return size;
}
INLINE bool is_number(float x) { return x - x == 0; } // neither infinite nor NaN

// e^x, within 2 units in the last place between -87 and 88; 0 below, e^88 above. x = n ln 2 + r, |r| <= ln 2 / 2;
// e^r by its Taylor polynomial of degree 7 (truncation below 2^-27).
INLINE f32x16 vexp(f32x16 x) {
  i32x16 vanishes = x < set1(-87.0f);
  x = vmin(vmax(x, set1(-87.0f)), set1(88.0f));
  f32x16 n = round_even(x * 1.44269504f);
  f32x16 r = fma(n, set1(-0.693145751953125f), x); // ln 2 in two parts, the first exact in 15 bits
  r = fma(n, set1(-1.42860677e-6f), r);
  f32x16 p = set1(1.98412698e-4f);
  p = fma(p, r, set1(1.38888889e-3f));
  p = fma(p, r, set1(8.33333333e-3f));
  p = fma(p, r, set1(4.16666667e-2f));
  p = fma(p, r, set1(1.66666667e-1f));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  f32x16 power = (f32x16)((to_int(n) + 127) << 23);
  return pick(vanishes, set1(0.0f), p * power);
}

// ---- widths -----------------------------------------------------------------------------------------
// Values kept; narrowing keeps the low bits. (GCC 12 does __builtin_convertvector lane by lane here.)

#if OSSIA_PART == 16
INLINE Pair<uint16_t, 32> widen_bytes(u8x16 v) { // the lower byte of a lane comes first
  const u8x16 none = {};
  return {(U16)__builtin_shufflevector(v, none, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
          (U16)__builtin_shufflevector(v, none, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)};
}
INLINE Pair<uint32_t, 32> widen_words(U16 v) {
  const U16 none = {};
  return {(U32)__builtin_shufflevector(v, none, 0, 8, 1, 9, 2, 10, 3, 11),
          (U32)__builtin_shufflevector(v, none, 4, 12, 5, 13, 6, 14, 7, 15)};
}
INLINE U16 narrow_words(U32 a, U32 b) {
  return __builtin_shufflevector((U16)a, (U16)b, 0, 2, 4, 6, 8, 10, 12, 14);
}
#endif
INLINE u32x16 widen(u16x16 v) {
#if defined(__AVX512F__)
  return (u32x16)_mm512_cvtepu16_epi32((__m256i)v);
#elif defined(__AVX2__)
  return {(U32)_mm256_cvtepu16_epi32(_mm256_castsi256_si128((__m256i)v)),
          (U32)_mm256_cvtepu16_epi32(_mm256_extracti128_si256((__m256i)v, 1))};
#else
  return {widen_words(v.lo), widen_words(v.hi)};
#endif
}
INLINE u32x16 widen(u8x16 v) {
#if defined(__AVX512F__)
  return (u32x16)_mm512_cvtepu8_epi32((__m128i)v);
#elif defined(__AVX2__)
  return {(U32)_mm256_cvtepu8_epi32((__m128i)v), (U32)_mm256_cvtepu8_epi32(_mm_srli_si128((__m128i)v, 8))};
#else
  return widen(widen_bytes(v));
#endif
}
INLINE u16x16 narrow(u32x16 v) {
#if defined(__AVX512F__)
  return (u16x16)_mm512_cvtepi32_epi16((__m512i)v);
#elif defined(__AVX2__)
  const __m256i low = _mm256_set1_epi32(0xffff); // saturation has nothing to do then
  __m256i both = _mm256_packus_epi32(_mm256_and_si256((__m256i)v.lo, low), _mm256_and_si256((__m256i)v.hi, low));
  return (u16x16)_mm256_permute4x64_epi64(both, 0xd8);
#else
  return {narrow_words(v.lo.lo, v.lo.hi), narrow_words(v.hi.lo, v.hi.hi)};
#endif
}
INLINE u8x16 to_bytes(i32x16 v) {
#if defined(__AVX512F__)
  return (u8x16)_mm512_cvtepi32_epi8((__m512i)v);
#elif defined(__AVX2__)
  __m256i words = (__m256i)narrow((u32x16)v & 255u);
  return (u8x16)_mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
#else
  u16x16 words = narrow((u32x16)v);
  return __builtin_shufflevector((u8x16)words.lo, (u8x16)words.hi, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26,
                                 28, 30);
#endif
}
// 32 signed bytes as 16-bit lanes.
INLINE i16x32 load_signed_bytes(const uint8_t *p) {
#if defined(__AVX512BW__)
  return (i16x32)_mm512_cvtepi8_epi16(load<__m256i>(p));
#elif defined(__AVX2__)
  return {(I16)_mm256_cvtepi8_epi16(load<__m128i>(p)), (I16)_mm256_cvtepi8_epi16(load<__m128i>(p + 16))};
#elif defined(OSSIA_NEON)
  const int8x16_t a = load<int8x16_t>(p), b = load<int8x16_t>(p + 16);
  return {{(I16)vmovl_s8(vget_low_s8(a)), (I16)vmovl_high_s8(a)}, {(I16)vmovl_s8(vget_low_s8(b)), (I16)vmovl_high_s8(b)}};
#else
  Pair<uint16_t, 32> a = widen_bytes(load<u8x16>(p)), b = widen_bytes(load<u8x16>(p + 16));
  i16x32 all = {(Pair<int16_t, 32>)a, (Pair<int16_t, 32>)b};
  return (all << 8) >> 8;
#endif
}

// ---- bfloat16 ---------------------------------------------------------------------------------------

// Nearest bfloat16, ties to even; NaN stays NaN.
INLINE uint16_t to_bf16(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);
  return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}
INLINE float from_bf16(uint16_t b) {
  uint32_t u = (uint32_t)b << 16;
  float x;
  memcpy(&x, &u, 4);
  return x;
}
// 16 lanes -> the bfloat16 bits in the low half of each lane.
INLINE u32x16 bf16_bits(f32x16 x) {
  u32x16 u = (u32x16)x;
  u32x16 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return pick((i32x16)(u & 0x7fffffffu) > 0x7f800000, u >> 16 | 0x40u, rounded);
}
INLINE f32x16 load_bf16(const uint16_t *p) { return as_float(widen(load<u16x16>(p)) << 16); } // 16 values
INLINE void store_bf16(uint16_t *p, f32x16 x) { store(p, narrow(bf16_bits(x))); }

// 32 floats -> 32 bfloat16 in order, to nearest even. Operands are 0 or normal: what becomes of others is the CPU's.
INLINE u16x32 to_bf16x32(f32x16 a, f32x16 b) {
#if defined(__AVX512BF16__)
  return (u16x32)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
#elif OSSIA_PART == 64
  uint16_t both[32];
  store_bf16(both, a);
  store_bf16(both + 16, b);
  return load<u16x32>(both);
#else
  return {narrow(bf16_bits(a)), narrow(bf16_bits(b))};
#endif
}

// The two bfloat16 of each lane as floats.
INLINE f32x16 even_bf16(u16x32 v) { return as_float((u32x16)v << 16); }
INLINE f32x16 odd_bf16(u16x32 v) { return as_float((u32x16)v & 0xffff0000u); }

// acc[lane] + w[lane].even * x.even + w[lane].odd * x.odd; w: 16 pairs of bfloat16, one pair a lane.
// The bits of one instruction set are its own; within it, they are a function of the operands alone.
#if OSSIA_PART == 16
INLINE F32 dot2(F32 acc, U16 w, U16 x) { // part by part: the floats of all parts would want registers at once
#if defined(OSSIA_MATRIX)
  return (F32)vbfdotq_f32((float32x4_t)acc, (bfloat16x8_t)w, (bfloat16x8_t)x);
#else
  acc = fma((F32)((U32)w & 0xffff0000u), (F32)((U32)x & 0xffff0000u), acc);
  acc = fma((F32)((U32)w << 16), (F32)((U32)x << 16), acc);
  pin(acc);
  return acc;
#endif
}
OSSIA_PAIRWISE_3(dot2)
#else
INLINE f32x16 dot2(f32x16 acc, u16x32 w, u16x32 x) {
#if defined(__AVX512BF16__)
  return (f32x16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)x);
#else
  acc = fma(odd_bf16(w), odd_bf16(x), acc);
  return fma(even_bf16(w), even_bf16(x), acc);
#endif
}
#endif
// The pair of bfloat16 at p in every lane.
INLINE u16x32 pair(const uint16_t *p) {
  uint32_t two;
  memcpy(&two, p, 4);
  return (u16x32)set1(two);
}

// ---- whole numbers ----------------------------------------------------------------------------------

// The four bytes at p in every lane.
INLINE u8x64 quad(const void *p) {
  uint32_t four;
  memcpy(&four, p, 4);
  return (u8x64)set1(four);
}

// dot4: acc[lane] + sum of 4 products of a weight's byte and an activation's, which is signed. Exact: callers keep the
// sums within int32. A weight w is stored as w + DENSE_OFFSET, one of MXFP4 as 2 w + FP4_OFFSET, since some instruction
// sets want one operand without a sign.
#if defined(__AVX512VNNI__)
constexpr int DENSE_OFFSET = 128, FP4_OFFSET = 12;
INLINE I32 dot4(I32 acc, U8 w, U8 x) { return (I32)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)x); }
#elif defined(__AVXVNNI__)
constexpr int DENSE_OFFSET = 128, FP4_OFFSET = 12;
INLINE I32 dot4(I32 acc, U8 w, U8 x) { return (I32)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)w, (__m256i)x); }
#elif defined(OSSIA_NEON)
// Not dot4, but two at a time: to each row the products of w0's bytes and the four with number X0 of x0, and of w1's and
// x1's X1. SmallSum is for weights of MXFP4, eight fours at most.
constexpr int DENSE_OFFSET = 0, FP4_OFFSET = 0;
#if defined(OSSIA_DOT4)
typedef I32 SmallSum, LargeSum;
template <int X0, int X1> INLINE I32 add_fours(I32 sum, U8 w0, U8 w1, U8 x0, U8 x1) {
  int32x4_t s = vdotq_laneq_s32((int32x4_t)sum, (int8x16_t)w0, (int8x16_t)x0, X0);
  return (I32)vdotq_laneq_s32(s, (int8x16_t)w1, (int8x16_t)x1, X1);
}
INLINE F32 total(I32 sum) { return to_float(sum); }
#else
struct SmallSum { // of the first two rows and the last two, each row in four parts: 8 products of at most 12 * 127
  int16x8_t low, high;
};
struct LargeSum { // each row in two parts
  int32x4_t low, high;
};
template <int N> INLINE int8x16_t spread_four(U8 v) { return (int8x16_t)vdupq_laneq_s32((int32x4_t)v, N); }
template <int X0, int X1> INLINE SmallSum add_fours(SmallSum sum, U8 w0, U8 w1, U8 x0, U8 x1) {
  const int8x16_t a = (int8x16_t)w0, b = (int8x16_t)w1, p = spread_four<X0>(x0), q = spread_four<X1>(x1);
  sum.low = vmlal_s8(vmlal_s8(sum.low, vget_low_s8(a), vget_low_s8(p)), vget_low_s8(b), vget_low_s8(q));
  sum.high = vmlal_high_s8(vmlal_high_s8(sum.high, a, p), b, q);
  return sum;
}
template <int X0, int X1> INLINE LargeSum add_fours(LargeSum sum, U8 w0, U8 w1, U8 x0, U8 x1) {
  const int8x16_t a = (int8x16_t)w0, b = (int8x16_t)w1, p = spread_four<X0>(x0), q = spread_four<X1>(x1);
  const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(a), vget_low_s8(p)), vget_low_s8(b), vget_low_s8(q));
  const int16x8_t high = vmlal_high_s8(vmull_high_s8(a, p), b, q); // 2 * 127 * 127 fits into 16 bits
  return {vpadalq_s16(sum.low, low), vpadalq_s16(sum.high, high)};
}
INLINE F32 total(LargeSum sum) { return (F32)vcvtq_f32_s32(vpaddq_s32(sum.low, sum.high)); }
INLINE F32 total(SmallSum sum) { return total(LargeSum{vpaddlq_s16(sum.low), vpaddlq_s16(sum.high)}); }
INLINE void pin(SmallSum &sum) { pin(sum.low), pin(sum.high); }
INLINE void pin(LargeSum &sum) { pin(sum.low), pin(sum.high); }
#endif
#else
// Without dot4 there are two others.
//   add_products  to each 16-bit lane the two products of its bytes; sums wrap around, and are right where the true
//                 value fits. For weights of MXFP4, at most 24.
//   dot2_words    to each 32-bit lane the two products of its signed 16-bit halves.
#if defined(__AVX2__) || defined(__AVX512BW__)
constexpr int DENSE_OFFSET = 128, FP4_OFFSET = 12;
#else
constexpr int DENSE_OFFSET = 128, FP4_OFFSET = 0;
#endif
#if defined(__AVX512BW__)
INLINE I16 add_products(I16 acc, U8 w, U8 x) { return acc + (I16)_mm512_maddubs_epi16((__m512i)w, (__m512i)x); }
INLINE I32 dot2_words(I32 acc, I16 w, I16 x) { return acc + (I32)_mm512_madd_epi16((__m512i)w, (__m512i)x); }
#elif defined(__AVX2__)
INLINE I16 add_products(I16 acc, U8 w, U8 x) { return acc + (I16)_mm256_maddubs_epi16((__m256i)w, (__m256i)x); }
INLINE I32 dot2_words(I32 acc, I16 w, I16 x) { return acc + (I32)_mm256_madd_epi16((__m256i)w, (__m256i)x); }
#else
INLINE I16 low_bytes(U8 v) { return ((I16)v << 8) >> 8; }
INLINE I16 high_bytes(U8 v) { return (I16)v >> 8; }
INLINE I16 add_products(I16 acc, U8 w, U8 x) {
  acc += low_bytes(w) * low_bytes(x);
  return acc + high_bytes(w) * high_bytes(x);
}
#if defined(__SSE2__)
INLINE I32 dot2_words(I32 acc, I16 w, I16 x) { return acc + (I32)_mm_madd_epi16((__m128i)w, (__m128i)x); }
#else
INLINE I32 dot2_words(I32 acc, I16 w, I16 x) {
  I32 a = (I32)w, b = (I32)x;
  acc += ((a << 16) >> 16) * ((b << 16) >> 16);
  return acc + (a >> 16) * (b >> 16);
}
#endif
#endif
// The two 16-bit halves of each lane added up.
INLINE I32 sum_of_halves(I16 v) {
#if defined(__SSE2__)
  return dot2_words(I32{}, v, (I16){} + 1);
#else
  return (((I32)v << 16) >> 16) + ((I32)v >> 16);
#endif
}
#endif

// max(a - b, 0), unsigned.
#if defined(__AVX512BW__)
INLINE U16 subtract_to_zero(U16 a, U16 b) { return (U16)_mm512_subs_epu16((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
INLINE U16 subtract_to_zero(U16 a, U16 b) { return (U16)_mm256_subs_epu16((__m256i)a, (__m256i)b); }
#elif defined(__SSE2__)
INLINE U16 subtract_to_zero(U16 a, U16 b) { return (U16)_mm_subs_epu16((__m128i)a, (__m128i)b); }
#elif defined(OSSIA_NEON)
INLINE U16 subtract_to_zero(U16 a, U16 b) { return (U16)vqsubq_u16((uint16x8_t)a, (uint16x8_t)b); }
#else
INLINE U16 subtract_to_zero(U16 a, U16 b) { return pick(a > b, a - b, (U16){}); }
#endif
OSSIA_PAIRWISE_2(subtract_to_zero)

// a0 b0 a1 b1 ... within each 16 bytes of the two, the first and the second half of it.
#if defined(__AVX512BW__)
INLINE U8 lane_zip_low(U8 a, U8 b) { return (U8)_mm512_unpacklo_epi8((__m512i)a, (__m512i)b); }
INLINE U8 lane_zip_high(U8 a, U8 b) { return (U8)_mm512_unpackhi_epi8((__m512i)a, (__m512i)b); }
INLINE U32 lane_zip_low(U32 a, U32 b) { return (U32)_mm512_unpacklo_epi32((__m512i)a, (__m512i)b); }
INLINE U32 lane_zip_high(U32 a, U32 b) { return (U32)_mm512_unpackhi_epi32((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
INLINE U8 lane_zip_low(U8 a, U8 b) { return (U8)_mm256_unpacklo_epi8((__m256i)a, (__m256i)b); }
INLINE U8 lane_zip_high(U8 a, U8 b) { return (U8)_mm256_unpackhi_epi8((__m256i)a, (__m256i)b); }
INLINE U32 lane_zip_low(U32 a, U32 b) { return (U32)_mm256_unpacklo_epi32((__m256i)a, (__m256i)b); }
INLINE U32 lane_zip_high(U32 a, U32 b) { return (U32)_mm256_unpackhi_epi32((__m256i)a, (__m256i)b); }
#else
INLINE U8 lane_zip_low(U8 a, U8 b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
INLINE U8 lane_zip_high(U8 a, U8 b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
INLINE U32 lane_zip_low(U32 a, U32 b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
INLINE U32 lane_zip_high(U32 a, U32 b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#endif
OSSIA_PAIRWISE_2(lane_zip_low)
OSSIA_PAIRWISE_2(lane_zip_high)
// Neighbours added within each 16 bytes: (a0 + a1, a2 + a3, b0 + b1, b2 + b3), which undoes a zip of two sums.
#if defined(__AVX512F__)
INLINE F32 lane_fold(F32 a, F32 b) {
  return (F32)_mm512_shuffle_ps((__m512)a, (__m512)b, 0x88) + (F32)_mm512_shuffle_ps((__m512)a, (__m512)b, 0xdd);
}
#elif defined(__AVX2__)
INLINE F32 lane_fold(F32 a, F32 b) {
  return (F32)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88) + (F32)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xdd);
}
#elif defined(OSSIA_NEON)
INLINE F32 lane_fold(F32 a, F32 b) { return (F32)vpaddq_f32((float32x4_t)a, (float32x4_t)b); }
#else
INLINE F32 lane_fold(F32 a, F32 b) { return even_lanes(a, b) + odd_lanes(a, b); }
#endif
OSSIA_PAIRWISE_2(lane_fold)

// ---- four-bit floats --------------------------------------------------------------------------------
// Codes 0 to 7 are 0, 0.5, 1, 1.5, 2, 3, 4, 6; 8 to 15 their negatives. As bfloat16 they come times 2^125, so that any
// scale is an exponent to take away.

#if defined(__AVX512BW__)
INLINE U8 look_up(const int8_t (&table)[16], U8 index) {
  return (U8)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(load<__m128i>(table)), (__m512i)index);
}
#elif defined(__AVX2__)
INLINE U8 look_up(const int8_t (&table)[16], U8 index) {
  return (U8)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load<__m128i>(table)), (__m256i)index);
}
#elif defined(OSSIA_NEON)
INLINE U8 look_up(const int8_t (&table)[16], U8 index) {
  return (U8)vqtbl1q_u8(load<uint8x16_t>(table), (uint8x16_t)index);
}
#endif

// The upper half of every byte.
INLINE U8 high_nibbles(U8 v) {
#if defined(OSSIA_NEON)
  return v >> 4;
#else
  return (U8)((U16)v >> 4) & 15; // x86 has no shift of bytes
#endif
}

// One code in the low half of every byte and nothing above: 2 * value + FP4_OFFSET.
#if defined(__AVX2__) || defined(OSSIA_NEON)
static const int8_t FP4_TWICE[16] = {
    FP4_OFFSET,     FP4_OFFSET + 1, FP4_OFFSET + 2, FP4_OFFSET + 3, FP4_OFFSET + 4, FP4_OFFSET + 6,
    FP4_OFFSET + 8, FP4_OFFSET + 12, FP4_OFFSET,    FP4_OFFSET - 1, FP4_OFFSET - 2, FP4_OFFSET - 3,
    FP4_OFFSET - 4, FP4_OFFSET - 6, FP4_OFFSET - 8, FP4_OFFSET - 12,
};
INLINE U8 fp4_to_byte(U8 code) { return look_up(FP4_TWICE, code); }
#else
INLINE U8 fp4_to_byte(U8 code) { // sizes 0 .. 7: 0 1 2 3 4 6 8 12
  typedef Vector<int8_t, OSSIA_PART> I8;
  const U8 size = code & 7, four = (U8){} + 4, six = (U8){} + 6;
  const U8 more = imax(size, six), twice = size + imax(size, four) + more + more - 16;
  const U8 negative = (U8)((I8)code > 7); // comparisons are of signed numbers on x86
  return (twice ^ negative) - negative + (uint8_t)FP4_OFFSET;
}
#endif
template <int B> INLINE Pair<uint8_t, B> fp4_to_byte(Pair<uint8_t, B> v) {
  return {fp4_to_byte(v.lo), fp4_to_byte(v.hi)};
}

// The same codes as bfloat16, a byte's in 16 bits: of each 16 bytes the first eight, and the others.
INLINE void fp4_to_words(U8 code, U16 *low, U16 *high) {
#if defined(__AVX2__) || defined(OSSIA_NEON)
  static const int8_t HIGH[16] = {0,    0x7d, 0x7e, 0x7e, 0x7e, 0x7e, 0x7f, 0x7f,
                                  -128, -3,   -2,   -2,   -2,   -2,   -1,   -1};
  static const int8_t LOW[16] = {0, -128, 0, 0x40, -128, -64, 0, 0x40, 0, -128, 0, 0x40, -128, -64, 0, 0x40};
  const U8 upper = look_up(HIGH, code), lower = look_up(LOW, code);
  *low = (U16)lane_zip_low(lower, upper);
  *high = (U16)lane_zip_high(lower, upper);
#else
  const U8 none = {};
  for (int half = 0; half < 2; half++) {
    const U16 w = (U16)(half ? lane_zip_high(code, none) : lane_zip_low(code, none)), size = w & 7;
    U16 value = (size << 6) + 0x7d40 + ((U16)((I16)size > 1) & 64); // 1 stands apart, and 0 is 0
    value &= (U16)((I16)size > 0);
    *(half ? high : low) = value | (w & 8) << 12;
  }
#endif
}
template <int B> INLINE void fp4_to_words(Pair<uint8_t, B> code, Pair<uint16_t, B> *low, Pair<uint16_t, B> *high) {
  fp4_to_words(code.lo, &low->lo, &high->lo);
  fp4_to_words(code.hi, &low->hi, &high->hi);
}
#if defined(OSSIA_DIRECT)
// From the low four bits of every 16-bit word, whatever the others hold.
INLINE u16x32 fp4_to_bf16(u16x32 w) {
  const u16x32 values = {0,      0x7d80, 0x7e00, 0x7e40, 0x7e80, 0x7ec0, 0x7f00, 0x7f40, 0x8000, 0xfd80, 0xfe00,
                         0xfe40, 0xfe80, 0xfec0, 0xff00, 0xff40, 0,      0x7d80, 0x7e00, 0x7e40, 0x7e80, 0x7ec0,
                         0x7f00, 0x7f40, 0x8000, 0xfd80, 0xfe00, 0xfe40, 0xfe80, 0xfec0, 0xff00, 0xff40};
  return (u16x32)_mm512_permutexvar_epi16((__m512i)w, (__m512i)values);
}
#endif

INLINE void prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }
// Into the second cache, which has room for more misses; the CPU brings it from there into the first in time.
INLINE void prefetch_second(const void *p) { __builtin_prefetch(p, 0, 2); }

} // namespace OSSIA_ISA
