// What this machine can do at best: arithmetic on registers, and reading memory. The kernels' speeds are held against
// it, so nothing here is shared with them: the loops are assembly, the threads are its own. Compiled for the oldest CPU
// of the architecture; what a loop needs is asked of the CPU first. Knows no kernels and no models.
//
// One line of the table below is one way to do one operation with one instruction set; the fastest of them is the
// ceiling. Accumulators are enough to hide the latency of any CPU so far: 12 on x86, 16 on ARM. Operands are ones:
// zeros and denormal numbers may be treated specially.

#include "cpu_features.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <initializer_list>
#include <thread>
#include <vector>

namespace {

// Mirrored in ceilings.py. "small" are products of which four fit into 16 bits when they are added, as those of MXFP4's
// codes do. Where an instruction set has no dot product of bfloat16, float32's is what it has.
enum Operation { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT8_SMALL = 3 };

struct Loop {
  const char *isa;
  Operation operation;
  double operations; // of a round: a multiplication and an addition are two
  void (*run)(long rounds);
};

// ---- x86 ---------------------------------------------------------------------------------------------------------

#if defined(__x86_64__)

#define TWELVE(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define EIGHT(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#define FOUR(f) f(0) f(1) f(2) f(3)
#define REGISTERS                                                                                                      \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",  \
      "xmm14", "xmm15", "memory", "cc"

// A function of `rounds`: registers become zero, 12 is filled from `word`, 13 with 16-bit ones; the body is repeated.
#define X86_LOOP(name, word, zero, fill, body, leave)                                                                  \
  void name(long rounds) {                                                                                             \
    const uint32_t operand = word, halves = 0x00010001;                                                                \
    asm volatile(zero fill "1:\n" body "dec %0\n jnz 1b\n" leave                                                       \
                 : "+r"(rounds)                                                                                        \
                 : "m"(operand), "m"(halves)                                                                           \
                 : REGISTERS);                                                                                         \
  }

// SSE2: what every x86-64 has.
#define SSE_ZERO(n) "pxor %%xmm" #n ", %%xmm" #n "\n"
#define SSE_FILL                                                                                                       \
  "movd %1, %%xmm12\n pshufd $0, %%xmm12, %%xmm12\n movd %2, %%xmm13\n pshufd $0, %%xmm13, %%xmm13\n"
#define SSE_FMA(n, t)                                                                                                  \
  "movaps %%xmm12, %%xmm" #t "\n mulps %%xmm12, %%xmm" #t "\n addps %%xmm" #t ", %%xmm" #n "\n"
#define SSE_MADD(n, t)                                                                                                 \
  "movdqa %%xmm13, %%xmm" #t "\n pmaddwd %%xmm13, %%xmm" #t "\n paddd %%xmm" #t ", %%xmm" #n "\n"
#define SSE_EIGHT(f) f(0, 8) f(1, 9) f(2, 10) f(3, 11) f(4, 8) f(5, 9) f(6, 10) f(7, 11)
constexpr uint32_t ONE = 0x3f800000, ONE_PAIR = 0x3f803f80, ONE_BYTES = 0x01010101;
X86_LOOP(sse_float, ONE, TWELVE(SSE_ZERO), SSE_FILL, SSE_EIGHT(SSE_FMA), "")
X86_LOOP(sse_int16, ONE_BYTES, TWELVE(SSE_ZERO), SSE_FILL, SSE_EIGHT(SSE_MADD), "")

// The others, with the name of their registers.
#define AVX2_FILL "vzeroall\n vpbroadcastd %1, %%ymm12\n vpbroadcastd %2, %%ymm13\n"
#define AVX512_FILL "vzeroall\n vpbroadcastd %1, %%zmm12\n vpbroadcastd %2, %%zmm13\n"
#define LEAVE "vzeroupper\n"
#define OP(name, r, a, b, to) name " %%" r #a ", %%" r #b ", %%" r #to "\n"

#define YMM_FMA(n) OP("vfmadd231ps", "ymm", 12, 12, n)
#define ZMM_FMA(n) OP("vfmadd231ps", "zmm", 12, 12, n)
#define ZMM_BF16(n) OP("vdpbf16ps", "zmm", 12, 12, n)
#define ZMM_BYTES(n) OP("vpdpbusd", "zmm", 12, 12, n)
X86_LOOP(avx2_float, ONE, "", AVX2_FILL, TWELVE(YMM_FMA), LEAVE)
X86_LOOP(avx512_float, ONE, "", AVX512_FILL, TWELVE(ZMM_FMA), LEAVE)
X86_LOOP(avx512_bf16, ONE_PAIR, "", AVX512_FILL, TWELVE(ZMM_BF16), LEAVE)
X86_LOOP(avx512_bytes, ONE_BYTES, "", AVX512_FILL, TWELVE(ZMM_BYTES), LEAVE)

// vpdpbusd of AVX-VNNI, ymm12, ymm12 into ymm n, in bytes: assemblers from before 2021 do not know it.
#define VNNI_BYTES(low, n) ".byte 0xc4, " low ", 0x1d, 0x50, 0xc4 + 8 * " #n "\n"
#define VNNI_LOW(n) VNNI_BYTES("0xc2", n)
#define VNNI_HIGH(n) VNNI_BYTES("0x42", n)
X86_LOOP(avxvnni_bytes, ONE_BYTES, "", AVX2_FILL, EIGHT(VNNI_LOW) FOUR(VNNI_HIGH), LEAVE)

// Four times 32 (or 64) products: bytes to pairs, pairs to fours, sums. Registers 0 to 3 are sums, 4 to 7 pass.
#define PAIRS(r)                                                                                                       \
  OP("vpmaddubsw", r, 12, 12, 4) OP("vpmaddubsw", r, 12, 12, 5)                                                        \
  OP("vpmaddubsw", r, 12, 12, 6) OP("vpmaddubsw", r, 12, 12, 7)                                                        \
  OP("vpmaddwd", r, 13, 4, 4) OP("vpmaddwd", r, 13, 5, 5) OP("vpmaddwd", r, 13, 6, 6) OP("vpmaddwd", r, 13, 7, 7)      \
  OP("vpaddd", r, 4, 0, 0) OP("vpaddd", r, 5, 1, 1) OP("vpaddd", r, 6, 2, 2) OP("vpaddd", r, 7, 3, 3)
X86_LOOP(avx2_pairs, ONE_BYTES, "", AVX2_FILL, PAIRS("ymm"), LEAVE)
X86_LOOP(avx512_pairs, ONE_BYTES, "", AVX512_FILL, PAIRS("zmm"), LEAVE)

// Eight times as many: four are added in 16 bits before they become sums of 32.
#define FOUR_SMALL(r, a, b, c, d, sum)                                                                                 \
  OP("vpmaddubsw", r, 12, 12, a) OP("vpmaddubsw", r, 12, 12, b)                                                        \
  OP("vpmaddubsw", r, 12, 12, c) OP("vpmaddubsw", r, 12, 12, d)                                                        \
  OP("vpaddw", r, a, b, a) OP("vpaddw", r, c, d, c) OP("vpaddw", r, a, c, a)                                           \
  OP("vpmaddwd", r, 13, a, a) OP("vpaddd", r, a, sum, sum)
#define SMALL(r) FOUR_SMALL(r, 4, 5, 6, 7, 0) FOUR_SMALL(r, 8, 9, 10, 11, 1)
X86_LOOP(avx2_small, ONE_BYTES, "", AVX2_FILL, SMALL("ymm"), LEAVE)
X86_LOOP(avx512_small, ONE_BYTES, "", AVX512_FILL, SMALL("zmm"), LEAVE)

constexpr Loop LOOPS[] = {
    {"avx512", FLOAT32, 12 * 32, avx512_float},
    {"avx512", BFLOAT16, 12 * 64, avx512_bf16},
    {"avx512", INT8, 12 * 128, avx512_bytes},
    {"avx512_vnni", FLOAT32, 12 * 32, avx512_float},
    {"avx512_vnni", INT8, 12 * 128, avx512_bytes},
    {"avx512_bw", FLOAT32, 12 * 32, avx512_float},
    {"avx512_bw", INT8, 4 * 128, avx512_pairs},
    {"avx512_bw", INT8_SMALL, 8 * 128, avx512_small},
    {"avxvnni", FLOAT32, 12 * 16, avx2_float},
    {"avxvnni", INT8, 12 * 64, avxvnni_bytes},
    {"avx2", FLOAT32, 12 * 16, avx2_float},
    {"avx2", INT8, 4 * 64, avx2_pairs},
    {"avx2", INT8_SMALL, 8 * 64, avx2_small},
    {"generic", FLOAT32, 8 * 8, sse_float},
    {"generic", INT8, 8 * 16, sse_int16},
};

// ---- ARM ---------------------------------------------------------------------------------------------------------

#elif defined(__aarch64__)

#define SIXTEEN(f)                                                                                                     \
  f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
#define EIGHT(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#define REGISTERS                                                                                                      \
  "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17",  \
      "v18", "v19", "v20", "v21", "v22", "v23", "v30", "cc"

// A function of `rounds`: registers 0 to 23 become zero, 30 is filled from `word`; then the body, repeated.
#define ARM_ZERO(n) "movi v" #n ".16b, #0\n"
#define ARM_LOOP(name, word, body)                                                                                     \
  void name(long rounds) {                                                                                             \
    const uint32_t operand = word;                                                                                     \
    asm volatile(SIXTEEN(ARM_ZERO) "dup v30.4s, %w1\n 1:\n" body "subs %0, %0, #1\n b.ne 1b\n"                         \
                 : "+r"(rounds)                                                                                        \
                 : "r"(operand)                                                                                        \
                 : REGISTERS);                                                                                         \
  }
constexpr uint32_t ONE = 0x3f800000, ONE_PAIR = 0x3f803f80, ONE_BYTES = 0x01010101;

// Extensions are written as numbers, register 30 twice into register n: not every assembler is told of them.
#define ARM_WORD(code, n) ".inst " code " + (30 << 16) + (30 << 5) + " #n "\n"
#define ARM_FMA(n) "fmla v" #n ".4s, v30.4s, v30.4s\n"
#define ARM_SDOT(n) ARM_WORD("0x4e809400", n)
#define ARM_SMMLA(n) ARM_WORD("0x4e80a400", n)
#define ARM_BFDOT(n) ARM_WORD("0x6e40fc00", n)
#define ARM_BFMMLA(n) ARM_WORD("0x6e40ec00", n)
// 16 products become eight of 16 bits (two of them fit), which are added to sums of 32 in pairs; or four of them first
#define ARM_WIDE(n, t) "smull v" #t ".8h, v30.8b, v30.8b\n smlal2 v" #t ".8h, v30.16b, v30.16b\n"
#define ARM_MORE(t) "smlal v" #t ".8h, v30.8b, v30.8b\n smlal2 v" #t ".8h, v30.16b, v30.16b\n"
#define ARM_ADD(n, t) "sadalp v" #n ".4s, v" #t ".8h\n"
#define ARM_PAIRS(n) ARM_WIDE(n, 1##n) ARM_ADD(n, 1##n)
#define ARM_SMALL(n) ARM_WIDE(n, 1##n) ARM_MORE(1##n) ARM_ADD(n, 1##n)
ARM_LOOP(neon_float, ONE, SIXTEEN(ARM_FMA))
ARM_LOOP(neon_pairs, ONE_BYTES, EIGHT(ARM_PAIRS))
ARM_LOOP(neon_small, ONE_BYTES, EIGHT(ARM_SMALL))
ARM_LOOP(neon_sdot, ONE_BYTES, SIXTEEN(ARM_SDOT))
ARM_LOOP(neon_smmla, ONE_BYTES, SIXTEEN(ARM_SMMLA))
ARM_LOOP(neon_bfdot, ONE_PAIR, SIXTEEN(ARM_BFDOT))
ARM_LOOP(neon_bfmmla, ONE_PAIR, SIXTEEN(ARM_BFMMLA))

constexpr Loop LOOPS[] = {
    {"neon_mmla", FLOAT32, 16 * 8, neon_float},
    {"neon_mmla", BFLOAT16, 16 * 16, neon_bfdot},
    {"neon_mmla", BFLOAT16, 16 * 32, neon_bfmmla},
    {"neon_mmla", INT8, 16 * 32, neon_sdot},
    {"neon_mmla", INT8, 16 * 64, neon_smmla},
    {"neon_dot", FLOAT32, 16 * 8, neon_float},
    {"neon_dot", INT8, 16 * 32, neon_sdot},
    {"neon", FLOAT32, 16 * 8, neon_float},
    {"neon", INT8, 8 * 32, neon_pairs},
    {"neon", INT8_SMALL, 8 * 64, neon_small},
    {"generic", FLOAT32, 16 * 8, neon_float},
    {"generic", INT8, 8 * 32, neon_pairs},
};

// ---- anything else -----------------------------------------------------------------------------------------------

#else

template <class T> void plain_loop(long rounds) {
  T sums[32] = {}, operand = 1;
  asm volatile("" : "+m"(operand));
  for (long i = 0; i < rounds; i++) {
    for (int n = 0; n < 32; n++) sums[n] += operand * operand;
    asm volatile("" : "+m"(sums));
  }
}

constexpr Loop LOOPS[] = {
    {"generic", FLOAT32, 32 * 2, plain_loop<float>},
    {"generic", INT8, 32 * 2, plain_loop<int32_t>},
};

#endif

// ---- time --------------------------------------------------------------------------------------------------------

typedef std::chrono::steady_clock Clock;
double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Seconds from the moment when all threads are ready until the last has done f(thread).
template <class F> double together(int threads, const F &f) {
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> all;
  for (int t = 0; t < threads; t++)
    all.emplace_back([&, t] {
      ready++;
      while (!go) std::this_thread::yield();
      f(t);
    });
  while (ready < threads) std::this_thread::yield();
  Clock::time_point begin = Clock::now();
  go = true;
  for (std::thread &one : all) one.join();
  return since(begin);
}

// The best of the trials that fit into `seconds`, but of LEAST at least: others can only make one slower.
template <class F> double best_rate(double seconds, const F &trial) {
  constexpr int LEAST = 8;
  double best = 0;
  Clock::time_point begin = Clock::now();
  for (int n = 0; n < LEAST || since(begin) < seconds; n++) {
    double rate = trial();
    best = rate > best ? rate : best;
  }
  return best;
}

// Processor time of the calling thread: others on the same core do not count.
double thread_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double timed(const Loop &loop, long rounds) {
  double begin = thread_seconds();
  loop.run(rounds);
  return thread_seconds() - begin;
}

// All threads at once, since cores may share what computes, or slow down together. More threads than processors are
// counted as processors.
double loop_rate(const Loop &loop, int threads, double seconds) {
  const int processors = (int)std::thread::hardware_concurrency();
  const double scale = processors > 0 && threads > processors ? (double)processors / threads : 1;
  long rounds = 1 << 10; // of a trial: a few milliseconds
  while (timed(loop, rounds) < 0.002) rounds *= 2;
  std::vector<double> took(threads);
  return best_rate(seconds, [&] {
    together(threads, [&](int t) { took[t] = timed(loop, rounds); });
    double rate = 0;
    for (double one : took) rate += loop.operations * (double)rounds / one;
    return rate * scale;
  });
}

// ---- memory ------------------------------------------------------------------------------------------------------

typedef uint64_t Word __attribute__((vector_size(16), aligned(16)));
constexpr size_t STREAMS = 4, STREAM = (size_t)1 << 18, CHUNK = STREAMS * STREAM, LINE = 64, AHEAD = 2048;

// A chunk of 1 MB as four streams, which prefetchers follow best.
template <bool PREFETCH> void read_chunk(const uint8_t *chunk) {
  Word any[STREAMS] = {};
  for (size_t at = 0; at < STREAM; at += LINE)
    for (size_t s = 0; s < STREAMS; s++) {
      const uint8_t *line = chunk + s * STREAM + at;
      if (PREFETCH) __builtin_prefetch(line + AHEAD);
      const Word *words = (const Word *)line;
      any[s] |= words[0] | words[1] | words[2] | words[3];
    }
  Word all = any[0] | any[1] | any[2] | any[3];
  asm volatile("" : : "m"(all));
}

// Reads `bytes` once, cut into as many parts as there are threads, which share the way to memory and are timed together
// by the clock. One thread alone is timed by its processor time.
template <bool PREFETCH> double read_rate(const uint8_t *memory, size_t bytes, int threads) {
  const size_t chunks = bytes / CHUNK;
  auto read = [&](int t) {
    for (size_t n = chunks * t / threads; n < chunks * (t + 1) / threads; n++) read_chunk<PREFETCH>(memory + n * CHUNK);
  };
  if (threads > 1) return (double)(chunks * CHUNK) / together(threads, read);
  double begin = thread_seconds();
  read(0);
  return (double)(chunks * CHUNK) / (thread_seconds() - begin);
}

} // namespace

#pragma GCC visibility push(default)
extern "C" {

// Name of the n-th instruction set with a ceiling that this CPU has, best first; null behind the last.
const char *ossia_ceiling_isa(int n) {
  const char *last = "";
  for (const Loop &loop : LOOPS) {
    if (!strcmp(loop.isa, last)) continue;
    last = loop.isa;
    if (ossia::cpu_has(loop.isa) && n-- == 0) return loop.isa;
  }
  return nullptr;
}

// Operations a second of an instruction set on so many threads; 0 if it has no instructions of its own for them.
// -1 if this CPU does not have it or nobody knows its name.
double ossia_ceiling_operations(const char *isa, int operation, int threads, double seconds) {
  double best = -1;
  for (const Loop &loop : LOOPS) {
    if (strcmp(loop.isa, isa) || !ossia::cpu_has(isa)) continue;
    double rate = loop.operation == operation ? loop_rate(loop, threads, seconds) : 0;
    best = rate > best ? rate : best;
  }
  return best;
}

// Bytes a second that so many threads read from memory, which is aligned to 64 bytes and far larger than the caches:
// with or without prefetch instructions, whichever is faster. A trial reads 64 MB a thread and the next one goes on
// behind it: short enough to be undisturbed now and then on a busy machine.
double ossia_ceiling_read(const uint8_t *memory, int64_t bytes, int threads, double seconds) {
  const size_t room = (size_t)bytes / CHUNK * CHUNK, whole = 64 * CHUNK * (size_t)threads;
  const size_t part = whole < room ? whole : room;
  size_t at = 0;
  read_rate<false>(memory, room, threads); // the first time is slow where the machine is a virtual one
  return best_rate(seconds, [&] {
    double best = 0;
    for (auto read : {read_rate<false>, read_rate<true>}) {
      double rate = read(memory + at, part, threads);
      best = rate > best ? rate : best;
      at = at + 2 * part <= room ? at + part : 0;
    }
    return best;
  });
}
}
#pragma GCC visibility pop
