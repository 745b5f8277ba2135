// Sixteen lanes of 32 bits on every CPU: the vector types, their operators, and how lanes move.
//
// A vector of 64 bytes is what the kernels are written over. Where the CPU's registers are narrower it is a pair of
// halves, and those again, down to the register's size: compilers keep such a pair in registers, while a single 64-byte
// vector that no register holds goes through the stack at every operation (GCC 12, 13, 14 do it so). Operators act on
// the parts in turn, so one source line is the same arithmetic on each lane everywhere.
// Knows no arithmetic that differs between instruction sets (simd.h), no model and no layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))
#define METHOD inline __attribute__((always_inline))
#define ALSO_INLINE __attribute__((always_inline)) // a function of no name, whose code belongs into a loop
#define APART static __attribute__((noinline)) // where a caller's variables would cost registers
#define UNROLL _Pragma("GCC unroll 16")
#define STAY_A_LOOP asm volatile("") // for the compiler, which would unroll it or mix it with the one around it

// Bytes of one register.
#if defined(__AVX512F__)
#define OSSIA_PART 64
#elif defined(__AVX2__)
#define OSSIA_PART 32
#else
#define OSSIA_PART 16
#endif

namespace OSSIA_ISA {

template <class T, int BYTES> struct Pair;
template <class T, int BYTES, bool WIDER = (BYTES > OSSIA_PART)> struct VectorOf {
  typedef T Type __attribute__((vector_size(BYTES)));
};
template <class T, int BYTES> struct VectorOf<T, BYTES, true> {
  typedef Pair<T, BYTES> Type;
};
// BYTES / sizeof(T) lanes of T, in as many registers as it takes.
template <class T, int BYTES> using Vector = typename VectorOf<T, BYTES>::Type;

// What a comparison of lanes of some size gives: all bits or none.
template <int SIZE> struct MaskLane;
template <> struct MaskLane<1> {
  typedef int8_t Type;
};
template <> struct MaskLane<2> {
  typedef int16_t Type;
};
template <> struct MaskLane<4> {
  typedef int32_t Type;
};
template <> struct MaskLane<8> {
  typedef int64_t Type;
};

template <class T, int BYTES> struct Pair {
  typedef Vector<T, BYTES / 2> Half;
  typedef Pair<typename MaskLane<sizeof(T)>::Type, BYTES> Mask;
  Half lo, hi;

  // The same bits as lanes of another type.
  template <class U> METHOD explicit operator Pair<U, BYTES>() const {
    typedef Vector<U, BYTES / 2> Other;
    return {(Other)lo, (Other)hi};
  }
  METHOD T operator[](int i) const {
    constexpr int HALF = BYTES / 2 / (int)sizeof(T);
    return i < HALF ? lo[i] : hi[i - HALF];
  }

#define OSSIA_OPERATOR(op)                                                                                             \
  friend METHOD Pair operator op(Pair a, Pair b) { return {a.lo op b.lo, a.hi op b.hi}; }                              \
  friend METHOD Pair operator op(Pair a, T b) { return {a.lo op b, a.hi op b}; }                                       \
  friend METHOD Pair operator op(T a, Pair b) { return {a op b.lo, a op b.hi}; }                                       \
  friend METHOD Pair &operator op##=(Pair &a, Pair b) { return a = a op b; }                                           \
  friend METHOD Pair &operator op##=(Pair &a, T b) { return a = a op b; }
  OSSIA_OPERATOR(+)
  OSSIA_OPERATOR(-)
  OSSIA_OPERATOR(*)
  OSSIA_OPERATOR(/)
  OSSIA_OPERATOR(&)
  OSSIA_OPERATOR(|)
#undef OSSIA_OPERATOR
  friend METHOD Pair operator<<(Pair a, int n) { return {a.lo << n, a.hi << n}; }
  friend METHOD Pair operator>>(Pair a, int n) { return {a.lo >> n, a.hi >> n}; }
  friend METHOD Pair operator-(Pair a) { return {-a.lo, -a.hi}; }
  friend METHOD Pair operator~(Pair a) { return {~a.lo, ~a.hi}; }

#define OSSIA_COMPARISON(op)                                                                                           \
  friend METHOD Mask operator op(Pair a, Pair b) {                                                                     \
    typedef typename Mask::Half H;                                                                                     \
    return {(H)(a.lo op b.lo), (H)(a.hi op b.hi)};                                                                     \
  }                                                                                                                    \
  friend METHOD Mask operator op(Pair a, T b) {                                                                        \
    typedef typename Mask::Half H;                                                                                     \
    return {(H)(a.lo op b), (H)(a.hi op b)};                                                                           \
  }
  OSSIA_COMPARISON(==)
  OSSIA_COMPARISON(!=)
  OSSIA_COMPARISON(<)
  OSSIA_COMPARISON(<=)
  OSSIA_COMPARISON(>)
  OSSIA_COMPARISON(>=)
#undef OSSIA_COMPARISON
};

typedef Vector<float, 64> f32x16;
typedef Vector<int32_t, 64> i32x16;
typedef Vector<uint32_t, 64> u32x16;
typedef Vector<int16_t, 64> i16x32;
typedef Vector<uint16_t, 64> u16x32;
typedef Vector<uint8_t, 64> u8x64;
typedef Vector<uint16_t, 32> u16x16;
typedef Vector<uint8_t, 16> u8x16;

// ---- memory -----------------------------------------------------------------------------------------

template <class V> struct InMemory {
  static METHOD V read(const void *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
  }
  static METHOD void write(void *p, V v) { memcpy(p, &v, sizeof v); }
};
template <class T, int BYTES> struct InMemory<Pair<T, BYTES>> { // part by part: as a whole it would pass the stack
  typedef InMemory<Vector<T, BYTES / 2>> Half;
  static METHOD Pair<T, BYTES> read(const void *p) { return {Half::read(p), Half::read((const char *)p + BYTES / 2)}; }
  static METHOD void write(void *p, Pair<T, BYTES> v) {
    Half::write(p, v.lo);
    Half::write((char *)p + BYTES / 2, v.hi);
  }
};
template <class V> INLINE V load(const void *p) { return InMemory<V>::read(p); }
template <class V> INLINE void store(void *p, V v) { InMemory<V>::write(p, v); }

// ---- every lane the same, and choices by lane -------------------------------------------------------

INLINE f32x16 set1(float x) { return x - (f32x16){}; }
INLINE i32x16 set1(int32_t x) { return x - (i32x16){}; }
INLINE u32x16 set1(uint32_t x) { return x - (u32x16){}; }
INLINE f32x16 as_float(u32x16 v) { return (f32x16)v; }

// a where the mask holds, else b.
template <class M, class V> INLINE V pick(M mask, V a, V b) { return mask ? a : b; }
template <class M, class T, int BYTES>
INLINE Pair<T, BYTES> pick(Pair<M, BYTES> mask, Pair<T, BYTES> a, Pair<T, BYTES> b) {
  return {pick(mask.lo, a.lo, b.lo), pick(mask.hi, a.hi, b.hi)};
}

static const int32_t LANE_NUMBERS[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
INLINE i32x16 lane_numbers() { return load<i32x16>(LANE_NUMBERS); }

// ---- halves -----------------------------------------------------------------------------------------

template <class T, int BYTES> INLINE Vector<T, BYTES / 2> low_half(Pair<T, BYTES> v) { return v.lo; }
template <class T, int BYTES> INLINE Vector<T, BYTES / 2> high_half(Pair<T, BYTES> v) { return v.hi; }
#define OSSIA_HALVES(T, bytes, low, high)                                                                              \
  INLINE Vector<T, bytes / 2> low_half(Vector<T, bytes> v) { return __builtin_shufflevector(v, v, low); }              \
  INLINE Vector<T, bytes / 2> high_half(Vector<T, bytes> v) { return __builtin_shufflevector(v, v, high); }
#define OSSIA_LIST(...) __VA_ARGS__
#if OSSIA_PART == 64
OSSIA_HALVES(float, 64, OSSIA_LIST(0, 1, 2, 3, 4, 5, 6, 7), OSSIA_LIST(8, 9, 10, 11, 12, 13, 14, 15))
OSSIA_HALVES(int32_t, 64, OSSIA_LIST(0, 1, 2, 3, 4, 5, 6, 7), OSSIA_LIST(8, 9, 10, 11, 12, 13, 14, 15))
#endif
#if OSSIA_PART >= 32
OSSIA_HALVES(float, 32, OSSIA_LIST(0, 1, 2, 3), OSSIA_LIST(4, 5, 6, 7))
OSSIA_HALVES(int32_t, 32, OSSIA_LIST(0, 1, 2, 3), OSSIA_LIST(4, 5, 6, 7))
#endif
#undef OSSIA_HALVES
#undef OSSIA_LIST

// One register of a vector of 64 bytes.
template <class V> INLINE auto part_of(V v, int part) {
#if OSSIA_PART == 64
  (void)part;
  return v;
#elif OSSIA_PART == 32
  return part ? v.hi : v.lo;
#else
  const auto half = part & 2 ? v.hi : v.lo;
  return part & 1 ? half.hi : half.lo;
#endif
}

// ---- neighbours: lanes of two vectors one after the other -------------------------------------------

#if OSSIA_PART == 64
INLINE f32x16 even_lanes(f32x16 a, f32x16 b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
INLINE f32x16 odd_lanes(f32x16 a, f32x16 b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
// a0 b0 a1 b1 ..., the first and the second half of it.
INLINE f32x16 zip_low(f32x16 a, f32x16 b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
INLINE f32x16 zip_high(f32x16 a, f32x16 b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#else
#if OSSIA_PART == 32
typedef Vector<float, 32> FloatPart;
INLINE FloatPart even_lanes(FloatPart a, FloatPart b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
}
INLINE FloatPart odd_lanes(FloatPart a, FloatPart b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}
INLINE FloatPart zip_low(FloatPart a, FloatPart b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
INLINE FloatPart zip_high(FloatPart a, FloatPart b) {
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
#else
typedef Vector<float, 16> FloatPart;
INLINE FloatPart even_lanes(FloatPart a, FloatPart b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
INLINE FloatPart odd_lanes(FloatPart a, FloatPart b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }
INLINE FloatPart zip_low(FloatPart a, FloatPart b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
INLINE FloatPart zip_high(FloatPart a, FloatPart b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#endif
template <class T, int BYTES> INLINE Pair<T, BYTES> even_lanes(Pair<T, BYTES> a, Pair<T, BYTES> b) {
  return {even_lanes(a.lo, a.hi), even_lanes(b.lo, b.hi)};
}
template <class T, int BYTES> INLINE Pair<T, BYTES> odd_lanes(Pair<T, BYTES> a, Pair<T, BYTES> b) {
  return {odd_lanes(a.lo, a.hi), odd_lanes(b.lo, b.hi)};
}
template <class T, int BYTES> INLINE Pair<T, BYTES> zip_low(Pair<T, BYTES> a, Pair<T, BYTES> b) {
  return {zip_low(a.lo, b.lo), zip_high(a.lo, b.lo)};
}
template <class T, int BYTES> INLINE Pair<T, BYTES> zip_high(Pair<T, BYTES> a, Pair<T, BYTES> b) {
  return {zip_low(a.hi, b.hi), zip_high(a.hi, b.hi)};
}
#endif

} // namespace OSSIA_ISA
