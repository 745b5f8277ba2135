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
typedef uint8_t u8x16 __attribute__((vector_size(16)));

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
#if defined(__AVX512F__)
  return (f32x16)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  f32x16 v = {};
  if (n == 16) v = load<f32x16>(p);
  else memcpy(&v, p, (size_t)n * sizeof(float));
  return v;
#endif
}
INLINE void store_first(float *p, f32x16 v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
  if (n == 16) store(p, v);
  else memcpy(p, &v, (size_t)n * sizeof(float));
#endif
}

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

// The same for integers: f on both halves.
template <class V, class F> INLINE V by_halves(V a, V b, const F &f) {
  __m256i x[2], y[2];
  memcpy(x, &a, 64);
  memcpy(y, &b, 64);
  x[0] = f(x[0], y[0]);
  x[1] = f(x[1], y[1]);
  memcpy(&a, x, 64);
  return a;
}

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
#elif defined(__AVX2__)
  return acc + (i32x16)by_halves(w, x, [](__m256i a, __m256i b) {
           __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(255)),
                                            _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
           __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
           return _mm256_add_epi32(even, odd);
         });
#else
  u32x16 a = (u32x16)w;
  i32x16 b = (i32x16)x;
  acc += (i32x16)(a & 255u) * ((b << 24) >> 24);
  acc += (i32x16)((a >> 8) & 255u) * ((b << 16) >> 24);
  acc += (i32x16)((a >> 16) & 255u) * ((b << 8) >> 24);
  return acc + (i32x16)(a >> 24) * (b >> 24);
#endif
}
// The same for w of at most 64, where some instruction sets have a shorter way.
INLINE i32x16 dot4_small(i32x16 acc, u8x64 w, u8x64 x) {
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
  return acc + (i32x16)by_halves(w, x, [](__m256i a, __m256i b) {
           return _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1));
         });
#else
  return dot4(acc, w, x);
#endif
}
// The four bytes at p in every lane.
INLINE u8x64 quad(const void *p) {
  uint32_t four;
  memcpy(&four, p, 4);
  return (u8x64)set1(four);
}

// Four-bit floats, codes 0 to 7: 0, 0.5, 1, 1.5, 2, 3, 4, 6; 8 to 15 their negatives. From the low four bits of every
// 16-bit word, whatever the others hold, to bfloat16 times 2^125: so that any scale is an exponent to take away.
INLINE u16x32 fp4_to_bf16(u16x32 w) {
#if defined(__AVX512BW__)
  const u16x32 values = {0,      0x7d80, 0x7e00, 0x7e40, 0x7e80, 0x7ec0, 0x7f00, 0x7f40, 0x8000, 0xfd80, 0xfe00,
                         0xfe40, 0xfe80, 0xfec0, 0xff00, 0xff40, 0,      0x7d80, 0x7e00, 0x7e40, 0x7e80, 0x7ec0,
                         0x7f00, 0x7f40, 0x8000, 0xfd80, 0xfe00, 0xfe40, 0xfe80, 0xfec0, 0xff00, 0xff40};
  return (u16x32)_mm512_permutexvar_epi16((__m512i)w, (__m512i)values);
#elif defined(__AVX2__)
  return by_halves(w & 15, w, [](__m256i code, __m256i) {
    const __m256i high = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 0x7d, 0x7e, 0x7e, 0x7e, 0x7e, 0x7f, 0x7f, -128, -3, -2, -2, -2, -2, -1, -1));
    const __m256i low = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -128, 0, 0x40, -128, -64, 0, 0x40, 0, -128, 0, 0x40, -128, -64, 0, 0x40));
    return _mm256_or_si256(_mm256_slli_epi16(_mm256_shuffle_epi8(high, code), 8), _mm256_shuffle_epi8(low, code));
  });
#else
  u16x32 size = w & 7, sign = (w & 8) << 12;
  u16x32 value = (size << 6) + 0x7d80; // right from 1.0 on
  value = size > 1 ? value : (u16x32)(size == 1 ? value - 64 : (u16x32){});
  return value | sign;
#endif
}
// max(a - b, 0), unsigned.
INLINE u16x32 subtract_to_zero(u16x32 a, u16x32 b) {
#if defined(__AVX512BW__)
  return (u16x32)_mm512_subs_epu16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return by_halves(a, b, [](__m256i x, __m256i y) { return _mm256_subs_epu16(x, y); });
#else
  return a > b ? a - b : (u16x32){};
#endif
}
// The same codes, one in the low half of every byte and nothing above: 2 * value + 12, from 0 to 24.
INLINE u8x64 fp4_to_byte(u8x64 code) {
#if defined(__AVX2__) // and AVX-512
  const __m128i values = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
#endif
#if defined(__AVX512BW__)
  return (u8x64)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), (__m512i)code);
#elif defined(__AVX2__)
  const __m256i table = _mm256_broadcastsi128_si256(values);
  return by_halves(code, code, [&](__m256i c, __m256i) { return _mm256_shuffle_epi8(table, c); });
#else
  u8x64 size = code & 7;
  u8x64 twice = size < 4 ? size : (u8x64)(size < 6 ? 2 * size - 4 : 4 * size - 16);
  return code < 8 ? 12 + twice : 12 - twice;
#endif
}

INLINE void prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }

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
// Widths changed, values kept; narrowing keeps the low bits. (GCC 12 does __builtin_convertvector lane by lane here.)
typedef uint16_t u16x16 __attribute__((vector_size(32)));
INLINE u32x16 widen(u8x16 v) {
#if defined(__AVX512F__)
  return (u32x16)_mm512_cvtepu8_epi32((__m128i)v);
#elif defined(__AVX2__)
  __m256i two[2] = {_mm256_cvtepu8_epi32((__m128i)v), _mm256_cvtepu8_epi32(_mm_srli_si128((__m128i)v, 8))};
  return load<u32x16>(two);
#else
  return __builtin_convertvector(v, u32x16);
#endif
}
INLINE u32x16 widen(u16x16 v) {
#if defined(__AVX512F__)
  return (u32x16)_mm512_cvtepu16_epi32((__m256i)v);
#elif defined(__AVX2__)
  __m128i half[2];
  memcpy(half, &v, 32);
  __m256i two[2] = {_mm256_cvtepu16_epi32(half[0]), _mm256_cvtepu16_epi32(half[1])};
  return load<u32x16>(two);
#else
  return __builtin_convertvector(v, u32x16);
#endif
}
INLINE u16x16 narrow(u32x16 v) {
#if defined(__AVX512F__)
  return (u16x16)_mm512_cvtepi32_epi16((__m512i)v);
#else
  return __builtin_convertvector(v, u16x16);
#endif
}
INLINE u8x16 to_bytes(i32x16 v) {
#if defined(__AVX512F__)
  return (u8x16)_mm512_cvtepi32_epi8((__m512i)v);
#else
  return __builtin_convertvector(v, u8x16);
#endif
}
INLINE f32x16 load_bf16(const uint16_t *p) { return as_float(widen(load<u16x16>(p)) << 16); } // 16 values
INLINE void store_bf16(uint16_t *p, f32x16 x) { store(p, narrow(bf16_bits(x))); }

typedef float f32x8 __attribute__((vector_size(32)));
typedef float f32x4 __attribute__((vector_size(16)));
INLINE float sum(f32x16 v) { // a fixed tree
  f32x8 a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
            __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  f32x4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (b[0] + b[2]) + (b[1] + b[3]);
}
INLINE float largest(f32x16 v) {
  f32x8 l = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
  f32x8 h = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  l = l > h ? l : h;
  f32x4 a = __builtin_shufflevector(l, l, 0, 1, 2, 3), b = __builtin_shufflevector(l, l, 4, 5, 6, 7);
  a = a > b ? a : b;
  float x = a[0] > a[2] ? a[0] : a[2], y = a[1] > a[3] ? a[1] : a[3];
  return x > y ? x : y;
}

// |v| as the integers that order floats: infinity is above every number, NaN above infinity.
INLINE i32x16 sizes(f32x16 v) { return (i32x16)v & 0x7fffffff; }
INLINE i32x16 imax(i32x16 a, i32x16 b) { return a > b ? a : b; }
// The largest of such sizes as a float again; NaN where there was one.
INLINE float largest_size(i32x16 v) {
  v = imax(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = imax(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = imax(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  v = imax(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
  return ((f32x16)v)[0];
}
INLINE bool is_number(float x) { return x - x == 0; } // neither infinite nor NaN

// The largest lane in every lane: the order of comparisons cannot matter, so each instruction set has its own.
INLINE f32x16 spread_largest(f32x16 v) {
#if defined(__AVX512F__)
  __m512 a = (__m512)v;
  a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0x4e));
  a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0xb1));
  a = _mm512_max_ps(a, _mm512_permute_ps(a, 0x4e));
  return (f32x16)_mm512_max_ps(a, _mm512_permute_ps(a, 0xb1));
#else
  return set1(largest(v));
#endif
}

// 32 floats -> 32 bfloat16 in order, to nearest even. Operands are 0 or normal: what becomes of others is the CPU's.
INLINE u16x32 to_bf16x32(f32x16 a, f32x16 b) {
#if defined(__AVX512BF16__)
  return (u16x32)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
#else
  uint16_t both[32];
  store_bf16(both, a);
  store_bf16(both + 16, b);
  return load<u16x32>(both);
#endif
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
