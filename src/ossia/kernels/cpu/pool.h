// One pool of threads for the whole library. The caller works too, so `threads` counts it.
//
// Work is cut into tasks that write disjoint memory; who does which task never changes a bit. Tasks are handed out one
// by one from a shared counter, and a call waits for tasks, not for threads: a core that is taken away for a moment
// costs little. On machines with several memory nodes a task may therefore read weights from a far one; pages lie where
// the thread that packed them touched them.
#pragma once

#include <cstddef>

namespace ossia {

// task: 0 .. tasks-1; thread: 0 .. threads-1, for scratch memory of one's own
typedef void (*TaskFn)(void *context, int task, int thread);

void run_tasks(int tasks, TaskFn fn, void *context);
int pool_threads();
void set_pool_threads(int threads); // at least 1; waits until no call is running

// One public call at a time: scratch memory and pool belong to it. Taken by api.cpp, never by kernels.
void lock_pool();
void unlock_pool();

// Scratch memory that lives until the next `scratch_reset`, aligned to 64 bytes; only from the calling thread.
void *scratch(size_t bytes);
void scratch_reset();
// Scratch of one thread of the pool, kept between calls: at least `bytes`, aligned to 64.
void *thread_scratch(int thread, size_t bytes);

// f(task, thread) for every task.
template <class F> inline void parallel(int tasks, const F &f) {
  run_tasks(
      tasks, [](void *context, int task, int thread) { (*static_cast<const F *>(context))(task, thread); },
      const_cast<F *>(&f));
}

} // namespace ossia
