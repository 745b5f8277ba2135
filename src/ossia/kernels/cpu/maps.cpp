// Files that weights are read from where they lie. If one becomes shorter meanwhile, reading what is gone is a SIGBUS,
// which tells nobody which file it was: this does, and the process ends as it would have.
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unistd.h>

namespace {

struct Map {
  std::atomic<uintptr_t> begin; // 0: not in use
  std::atomic<uintptr_t> end;
  std::atomic<const char *> path; // never freed: the handler may be reading it
  Map *next;
};

std::atomic<Map *> maps{nullptr}; // grows only
std::mutex changing;
struct sigaction before;

// Only what may be called in a handler: write, strlen, sigaction, raise.
void say(const char *text) { (void)!write(STDERR_FILENO, text, strlen(text)); }

void on_bus_error(int number, siginfo_t *info, void *) {
  const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Map *map = maps.load(); map && info->si_code > 0; map = map->next)
    if (map->begin.load() <= at && at < map->end.load()) {
      say("ossia: ");
      say(map->path.load());
      say(": this weights file was truncated or could not be read while its weights were in use; the process ends."
          " Put the file back and start again, or load with --load copy, which reads it once.\n");
      break;
    }
  sigaction(number, &before, nullptr);
  raise(number); // delivered after this handler
}

} // namespace

#pragma GCC visibility push(default)
extern "C" {

// The file `path` is mapped at [begin, begin + size).
void ossia_watch_map(const void *begin, int64_t size, const char *path) {
  const std::lock_guard<std::mutex> hold(changing);
  static const bool installed = [] {
    struct sigaction ours = {};
    ours.sa_sigaction = on_bus_error;
    ours.sa_flags = SA_SIGINFO;
    sigemptyset(&ours.sa_mask);
    return sigaction(SIGBUS, &ours, &before) == 0;
  }();
  (void)installed;
  Map *map = maps.load();
  while (map && map->begin.load())
    map = map->next;
  const bool is_new = !map;
  if (is_new)
    map = new Map{{0}, {0}, {nullptr}, maps.load()};
  map->path = strdup(path);
  map->end = reinterpret_cast<uintptr_t>(begin) + size;
  map->begin = reinterpret_cast<uintptr_t>(begin);
  if (is_new)
    maps = map;
}

// It is not mapped there any more.
void ossia_forget_map(const void *begin) {
  const std::lock_guard<std::mutex> hold(changing);
  for (Map *map = maps.load(); map; map = map->next)
    if (map->begin.load() == reinterpret_cast<uintptr_t>(begin)) {
      map->end = 0;
      map->begin = 0;
    }
}
}
#pragma GCC visibility pop
