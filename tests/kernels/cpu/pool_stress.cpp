// Many small calls of the thread pool: each must do every task once, and leave its context alone once it is over.
// Built by test_pool.py, plainly and with ThreadSanitizer, to which plain memory shows what is not ordered.
#include "pool.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

constexpr int MOST_TASKS = 40, MOST_THREADS = 6;

struct Call { // lies on the stack of who calls, and is gone afterwards
  int times[MOST_TASKS] = {};
  int slow = -1; // this task takes longer than anybody spins
};

void pause_for(int microseconds) {
  std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
}

void check(bool right, const char *what) {
  if (right) return;
  fprintf(stderr, "pool_stress: %s\n", what);
  abort();
}

void one_call(unsigned &seed) {
  Call call;
  const int tasks = rand_r(&seed) % (MOST_TASKS + 1);
  if (rand_r(&seed) % 50 == 0) call.slow = rand_r(&seed) % MOST_TASKS;
  ossia::parallel(tasks, [&](int task, int thread) {
    check(thread >= 0 && thread < ossia::pool_threads(), "a thread has a number that there is not");
    int *own = (int *)ossia::thread_scratch(thread, sizeof(int) * 8);
    own[0] = task; // nobody else has this memory
    if (task == call.slow) pause_for(300);
    check(own[0] == task, "two threads share their scratch memory");
    call.times[task]++;
  });
  for (int task = 0; task < MOST_TASKS; task++)
    check(call.times[task] == (task < tasks), "a task was not done once");
  memset(&call, 255, sizeof call);
}

// As api.cpp does: any thread may call, one at a time.
void calls(int count, unsigned seed) {
  for (int n = 0; n < count; n++) {
    ossia::lock_pool();
    one_call(seed);
    ossia::unlock_pool();
    if (rand_r(&seed) % 100 == 0) pause_for(200); // until the workers sleep
    if (rand_r(&seed) % 100 == 0) ossia::set_pool_threads(1 + rand_r(&seed) % MOST_THREADS);
  }
}

void calls_in_a_fork(int count) {
  const pid_t child = fork();
  if (child == 0) {
    calls(count, 3);
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "calls in a forked process failed");
}

} // namespace

// pool_stress CALLS [fork]
int main(int count_of_words, char **words) {
  const int count = atoi(words[1]);
  ossia::set_pool_threads(MOST_THREADS);
  std::vector<std::thread> callers;
  for (unsigned seed = 0; seed < 3; seed++) callers.emplace_back(calls, count, seed);
  for (auto &caller : callers) caller.join();
  if (count_of_words > 2) calls_in_a_fork(count);
  calls(count, 4);
}
