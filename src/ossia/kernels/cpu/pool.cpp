// The thread pool of pool.h. Who waits spins for a moment, so that a call of a microsecond starts at once, then sleeps.
// Nobody waits for a thread that has nothing to do in the call: where others use the cores, it may be far from running.
#include "pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <sys/resource.h>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <climits>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ossia {
namespace {

constexpr size_t LINE = 64; // bytes of a cache line: no two counters share one
// How long to spin: longer than it takes from one call to the next within a layer.
constexpr auto SPIN = std::chrono::microseconds(50);
constexpr auto BRIEF = std::chrono::microseconds(3);      // where others want the cores
constexpr auto CONTENDED = std::chrono::milliseconds(8);  // after a preemption: two turns of usual schedulers

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb"); // waits as long as x86's pause does; yield is next to nothing on most
#endif
}

// How often another thread was given this one's core while it could have gone on; 0 where the system does not say.
long preemptions() {
#if defined(RUSAGE_THREAD)
  rusage usage;
  if (!getrusage(RUSAGE_THREAD, &usage)) return usage.ru_nivcsw;
#endif
  return 0;
}

// Asleep while the word has this value; may also return early. Not std::atomic's wait, where there is a futex: it
// yields first, and a thread that yields gives away its share of a contended core.
void sleep_while(std::atomic<uint32_t> &word, uint32_t value) {
#if defined(__linux__)
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
  word.wait(value);
#endif
}

void wake_all(std::atomic<uint32_t> &word) {
#if defined(__linux__)
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
  word.notify_all();
#endif
}

struct Job {
  TaskFn fn;
  void *context;
};

char *aligned(size_t bytes);

struct Scratch { // grows, is never given back
  char *memory = nullptr;
  size_t size = 0;
  void *at_least(size_t bytes) {
    if (bytes > size) {
      free(memory);
      size = bytes + bytes / 4;
      memory = aligned(size);
    }
    return memory;
  }
};

// Spins until another thread has done something, but not for long. A thread that was preempted knows that others want
// its core: spinning then takes time from them, or from the very thread that it waits for.
class Patience {
public:
  // Whether it is done; otherwise the caller should sleep.
  template <class F> bool spin_until(const F &is_done) {
    const auto begin = Clock::now();
    auto until = begin + BRIEF;
    for (;;) {
      for (int i = 0; i < 16; i++, relax())
        if (is_done()) return true;
      const auto now = Clock::now();
      if (now < until) continue;
      if (until != begin + BRIEF || is_contended(now)) return false;
      until = begin + SPIN;
    }
  }

private:
  using Clock = std::chrono::steady_clock;

  bool is_contended(Clock::time_point now) {
    const long count = preemptions();
    if (count != seen_) calm_at_ = now + CONTENDED;
    seen_ = count;
    return now < calm_at_;
  }

  long seen_ = preemptions();
  Clock::time_point calm_at_{};
};

// `ticket_` holds the number of tasks and the next one to be taken. Taking is one addition, and what it yields belongs to
// the call that runs at that moment, whichever that is. A call is over when its tasks are: a worker that wakes late finds
// none left. Only who holds a task may read `job_` and count down `left_`, for only then is the call not over.
class Pool {
public:
  Pool() { start(default_threads()); }
  ~Pool() { stop(); }

  void run(int tasks, TaskFn fn, void *context) {
    if (workers_.empty() || tasks <= 1) {
      for (int i = 0; i < tasks; i++) fn(context, i, 0);
      return;
    }
    job_ = {fn, context};
    left_.store(uint32_t(tasks), std::memory_order_relaxed);
    ticket_.store(uint64_t(tasks) << 32, std::memory_order_release);
    wake_workers();
    const uint32_t own = work(0);
    if (left_.fetch_sub(own, std::memory_order_acq_rel) != own) wait_for_others();
  }

  int threads() const { return int(workers_.size()) + 1; }

  void set_threads(int threads) {
    if (threads == this->threads()) return;
    stop();
    start(threads);
  }

  Scratch &scratch_of(int thread) { return *scratch_[size_t(thread)]; }

private:
  // The cores that this process may use.
  static int default_threads() { return int(std::max(1u, std::thread::hardware_concurrency())); }

  void start(int threads) {
    quit_ = false;
    while (int(scratch_.size()) < threads) scratch_.push_back(std::make_unique<Scratch>());
    uint32_t epoch = epoch_.load();
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, i, epoch] { loop(i, epoch); });
  }

  void stop() {
    quit_ = true;
    wake_workers();
    for (auto &worker : workers_) worker.join();
    workers_.clear();
  }

  void loop(int thread, uint32_t seen) {
    for (Patience patience;;) {
      seen = changed_epoch(seen, patience);
      if (quit_) return;
      const uint32_t done = work(thread);
      if (done && left_.fetch_sub(done) == done && caller_sleeps_.load()) wake_all(left_);
    }
  }

  // Does tasks until all are taken; returns how many it did.
  uint32_t work(int thread) {
    for (uint32_t done = 0;; done++) {
      const uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acquire);
      const uint32_t task = uint32_t(ticket);
      if (task >= uint32_t(ticket >> 32)) return done;
      job_.fn(job_.context, int(task), thread);
    }
  }

  void wake_workers() {
    epoch_.fetch_add(1); // before the flag is read: who sets it too late does not fall asleep
    if (workers_sleep_.exchange(false)) wake_all(epoch_);
  }

  uint32_t changed_epoch(uint32_t seen, Patience &patience) {
    auto is_changed = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
    if (!patience.spin_until(is_changed))
      while (!is_changed()) {
        workers_sleep_.store(true);
        sleep_while(epoch_, seen);
      }
    return epoch_.load(std::memory_order_acquire);
  }

  void wait_for_others() {
    auto is_over = [&] { return left_.load(std::memory_order_acquire) == 0; };
    thread_local Patience patience; // any thread may call
    if (patience.spin_until(is_over)) return;
    caller_sleeps_.store(true); // before the count is read, as above
    for (uint32_t left; (left = left_.load()) > 0;) sleep_while(left_, left);
    caller_sleeps_.store(false);
  }

  alignas(LINE) std::atomic<uint64_t> ticket_{0}; // tasks << 32 | next
  alignas(LINE) std::atomic<uint32_t> left_{0};   // tasks that have not ended
  std::atomic<bool> caller_sleeps_{false};
  alignas(LINE) std::atomic<uint32_t> epoch_{0}; // changes when there is something to do
  std::atomic<bool> workers_sleep_{false};
  alignas(LINE) Job job_{};
  std::atomic<bool> quit_{false};
  std::vector<std::thread> workers_;
  std::vector<std::unique_ptr<Scratch>> scratch_;
};

// Never destroyed: at exit a call may still be running, and there is nothing to save.
Pool *one_pool;
std::mutex *one_call = new std::mutex;
struct Block {
  char *memory;
  size_t size, used;
};
std::vector<Block> &blocks = *new std::vector<Block>;

// Threads do not live on in a forked child: it gets a pool of its own, and a lock that nobody holds.
void forget_pool() {
  one_pool = nullptr;
  one_call = new std::mutex;
}

Pool &pool() {
  static bool registered = !pthread_atfork(nullptr, nullptr, forget_pool);
  (void)registered;
  if (!one_pool) one_pool = new Pool;
  return *one_pool;
}

char *aligned(size_t bytes) {
  char *memory = static_cast<char *>(aligned_alloc(4096, (bytes + 4095) & ~size_t(4095)));
  if (!memory) {
    fprintf(stderr, "ossia: no memory for %zu bytes of scratch\n", bytes);
    abort();
  }
  return memory;
}

} // namespace

void run_tasks(int tasks, TaskFn fn, void *context) { pool().run(tasks, fn, context); }
int pool_threads() { return pool().threads(); }
void set_pool_threads(int threads) {
  std::lock_guard<std::mutex> guard(*one_call);
  pool().set_threads(threads < 1 ? 1 : threads);
}
void lock_pool() { one_call->lock(); }
void unlock_pool() { one_call->unlock(); }
void *thread_scratch(int thread, size_t bytes) { return pool().scratch_of(thread).at_least(bytes); }

void *scratch(size_t bytes) {
  bytes = (bytes + LINE - 1) & ~(LINE - 1);
  for (auto &block : blocks)
    if (block.size - block.used >= bytes) {
      block.used += bytes;
      return block.memory + block.used - bytes;
    }
  size_t size = bytes < (size_t(1) << 20) ? size_t(1) << 20 : bytes;
  blocks.push_back({aligned(size), size, bytes});
  return blocks.back().memory;
}

void scratch_reset() { // several blocks become one, which the next call of that size will find
  size_t total = 0;
  for (auto &block : blocks) {
    total += block.size;
    block.used = 0;
  }
  if (blocks.size() < 2) return;
  for (auto &block : blocks) free(block.memory);
  blocks.clear();
  blocks.push_back({aligned(total), total, 0});
}

} // namespace ossia
