// Sixteen lanes on every CPU: the vector types and the few operations that differ between instruction sets.
//
// Kernels are written once over these (GCC vector extensions: + - * < & << work on the types themselves) and compiled
// once per instruction set. Every float operation that matters is written out as fma / mul / add; the library is
// compiled with -ffp-contract=off, so that one source line gives the same bits wherever it is inlined.
// Knows no model and no layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));
typedef uint8_t u8x64 __attribute__((vector_size(64)));

namespace OSSIA_ISA {

template <class V> INLINE V load(const void *p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <class V> INLINE void store(void *p, V v) { memcpy(p, &v, sizeof v); }

INLINE f32x16 set1(float x) { return x - (f32x16){}; }
INLINE i32x16 set1(int32_t x) { return x - (i32x16){}; }
INLINE u32x16 set1(uint32_t x) { return x - (u32x16){}; }
INLINE f32x16 as_float(u32x16 v) { return (f32x16)v; }
INLINE f32x16 to_float(i32x16 v) { return __builtin_convertvector(v, f32x16); }

// The first n lanes (0 to 16) of what p points to, zeros behind: nothing beyond is read.
INLINE f32x16 load_first(const float *p, int n) {
  f32x16 v = {};
  memcpy(&v, p, (size_t)n * sizeof(float));
  return v;
}
INLINE void store_first(float *p, f32x16 v, int n) { memcpy(p, &v, (size_t)n * sizeof(float)); }

#if defined(__AVX512F__)

INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE f32x16 vmax(f32x16 a, f32x16 b) { return (f32x16)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE f32x16 vmin(f32x16 a, f32x16 b) { return (f32x16)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE f32x16 round_even(f32x16 a) { return (f32x16)_mm512_roundscale_ps((__m512)a, 8); }

#elif defined(__AVX2__)

#define OSSIA_HALVES(name, expression)                                                                                 \
  __m256 lo, hi;                                                                                                       \
  {                                                                                                                    \
    constexpr int i = 0;                                                                                               \
    lo = expression;                                                                                                   \
  }                                                                                                                    \
  {                                                                                                                    \
    constexpr int i = 1;                                                                                               \
    hi = expression;                                                                                                   \
  }                                                                                                                    \
  return joined(lo, hi);

INLINE __m256 half(f32x16 v, int i) {
  __m256 h;
  memcpy(&h, (const char *)&v + 32 * i, 32);
  return h;
}
INLINE f32x16 joined(__m256 lo, __m256 hi) {
  f32x16 v;
  memcpy(&v, &lo, 32);
  memcpy((char *)&v + 32, &hi, 32);
  return v;
}
INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  OSSIA_HALVES(fma, _mm256_fmadd_ps(half(a, i), half(b, i), half(c, i)))
}
INLINE f32x16 vmax(f32x16 a, f32x16 b) { OSSIA_HALVES(max, _mm256_max_ps(half(a, i), half(b, i))) }
INLINE f32x16 vmin(f32x16 a, f32x16 b) { OSSIA_HALVES(min, _mm256_min_ps(half(a, i), half(b, i))) }
INLINE f32x16 round_even(f32x16 a) { OSSIA_HALVES(round, _mm256_round_ps(half(a, i), 8)) }
#undef OSSIA_HALVES

#else

INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return a * b + c; } // two roundings: the same everywhere in this ISA
INLINE f32x16 vmax(f32x16 a, f32x16 b) { return a > b ? a : b; }
INLINE f32x16 vmin(f32x16 a, f32x16 b) { return a < b ? a : b; }
INLINE f32x16 round_even(f32x16 a) {
  const f32x16 magic = set1(12582912.0f); // 1.5 * 2^23: for |a| < 2^22, which is all that is asked for here
  return (a + magic) - magic;
}

#endif

INLINE i32x16 to_int(f32x16 a) { return __builtin_convertvector(a, i32x16); } // truncates: round first

// acc[lane] + w[lane].even * x.even + w[lane].odd * x.odd; w: 16 pairs of bfloat16, one pair a lane.
// The bits of one instruction set are its own; within it, they are a function of the operands alone.
INLINE f32x16 dot2(f32x16 acc, u16x32 w, u16x32 x) {
#if defined(__AVX512BF16__)
  return (f32x16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)x);
#else
  u32x16 a = (u32x16)w, b = (u32x16)x;
  const u32x16 high = set1(0xffff0000u);
  acc = fma(as_float(a & high), as_float(b & high), acc);
  return fma(as_float(a << 16), as_float(b << 16), acc);
#endif
}
// The pair of bfloat16 at p in every lane.
INLINE u16x32 pair(const uint16_t *p) {
  uint32_t two;
  memcpy(&two, p, 4);
  return (u16x32)set1(two);
}

// acc[lane] + sum of 4 products u8 * s8. Exact: callers keep the sums within int32.
INLINE i32x16 dot4(i32x16 acc, u8x64 w, u8x64 x) {
#if defined(__AVX512VNNI__)
  return (i32x16)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)x);
#else
  u32x16 a = (u32x16)w;
  i32x16 b = (i32x16)x;
  acc += (i32x16)(a & 255u) * ((b << 24) >> 24);
  acc += (i32x16)((a >> 8) & 255u) * ((b << 16) >> 24);
  acc += (i32x16)((a >> 16) & 255u) * ((b << 8) >> 24);
  return acc + (i32x16)(a >> 24) * (b >> 24);
#endif
}
// The four bytes at p in every lane.
INLINE u8x64 quad(const void *p) {
  uint32_t four;
  memcpy(&four, p, 4);
  return (u8x64)set1(four);
}

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
  return (u & 0x7fffffffu) > 0x7f800000u ? (u >> 16 | 0x40u) : rounded;
}
INLINE f32x16 load_bf16(const uint16_t *p) { // 16 values
  typedef uint16_t u16x16 __attribute__((vector_size(32)));
  return as_float(__builtin_convertvector(load<u16x16>(p), u32x16) << 16);
}
INLINE void store_bf16(uint16_t *p, f32x16 x) {
  typedef uint16_t u16x16 __attribute__((vector_size(32)));
  store(p, __builtin_convertvector(bf16_bits(x), u16x16));
}

INLINE float sum(f32x16 v) { // a fixed tree
  float a[16];
  store(a, v);
  for (int n = 8; n; n >>= 1)
    for (int i = 0; i < n; i++) a[i] += a[i + n];
  return a[0];
}
INLINE float largest(f32x16 v) {
  float a[16];
  store(a, v);
  for (int n = 8; n; n >>= 1)
    for (int i = 0; i < n; i++) a[i] = a[i] > a[i + n] ? a[i] : a[i + n];
  return a[0];
}

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
  return vanishes ? set1(0.0f) : p * power;
}

} // namespace OSSIA_ISA
