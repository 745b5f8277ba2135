// The thread pool of pool.h: workers wait by spinning for a moment, then sleep; a call of a microsecond starts at once.
#include "pool.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ossia {
namespace {

constexpr size_t LINE = 64; // bytes of a cache line: no two counters share one
constexpr auto SPIN = std::chrono::microseconds(100);

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

struct Job {
  TaskFn fn;
  void *context;
  int tasks;
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

class Pool {
public:
  Pool() { start(default_threads()); }
  ~Pool() { stop(); }

  void run(int tasks, TaskFn fn, void *context) {
    if (workers_.empty() || tasks <= 1) {
      for (int i = 0; i < tasks; i++) fn(context, i, 0);
      return;
    }
    job_ = {fn, context, tasks};
    next_.store(0, std::memory_order_relaxed);
    busy_.store(int(workers_.size()), std::memory_order_relaxed);
    epoch_.fetch_add(1); // before `sleeping_` is read: who falls asleep meanwhile sees it
    if (sleeping_.load() > 0) epoch_.notify_all();
    work(0);
    for (int spins = 0; busy_.load(std::memory_order_acquire) > 0; spins++) {
      relax();
      if (spins % 4096 == 4095) std::this_thread::yield(); // more threads than free cores
    }
  }

  int threads() const { return int(workers_.size()) + 1; }

  void set_threads(int threads) {
    if (threads == this->threads()) return;
    stop();
    start(threads);
  }

  Scratch &scratch_of(int thread) { return *scratch_[size_t(thread)]; }

private:
  static int default_threads() { return int(std::max(1u, std::thread::hardware_concurrency())); } // cores that this process may use

  void start(int threads) {
    quit_ = false;
    while (int(scratch_.size()) < threads) scratch_.push_back(std::make_unique<Scratch>());
    uint32_t epoch = epoch_.load();
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, i, epoch] { loop(i, epoch); });
  }

  void stop() {
    quit_ = true;
    epoch_.fetch_add(1);
    epoch_.notify_all();
    for (auto &worker : workers_) worker.join();
    workers_.clear();
  }

  void loop(int thread, uint32_t seen) {
    for (;;) {
      wait_for_change(seen);
      seen++;
      if (quit_) return;
      work(thread);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  void wait_for_change(uint32_t seen) {
    auto until = std::chrono::steady_clock::now() + SPIN;
    for (int spins = 0; epoch_.load(std::memory_order_acquire) == seen; spins++) {
      relax();
      if (spins % 64 == 63 && std::chrono::steady_clock::now() > until) {
        sleeping_.fetch_add(1);
        epoch_.wait(seen);
        sleeping_.fetch_sub(1);
      }
    }
  }

  void work(int thread) {
    Job job = job_;
    for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < job.tasks;) job.fn(job.context, i, thread);
  }

  alignas(LINE) std::atomic<int> next_{0};
  alignas(LINE) std::atomic<int> busy_{0};
  alignas(LINE) std::atomic<uint32_t> epoch_{0};
  std::atomic<int> sleeping_{0};
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
