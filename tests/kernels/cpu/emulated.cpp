// The kernels' C interface as a program: one call a line of the input, `function argument argument ...`, and its result
// as a line of the output. Pointers mean the same in the program that asks: they lie in memory that both share.
// Made for another architecture and run by an emulator, it lets Python test kernels which that machine cannot load.
#include "api.cpp"
#include "ceilings.cpp"
#include "maps.cpp"

#include "shared_memory.h"

#include <iostream>
#include <sstream>
#include <string>
#include <tuple>
#include <type_traits>

template <class T> static T argument(std::istream &in) {
  std::string word;
  in >> word;
  if constexpr (std::is_floating_point_v<T>) return (T)strtod(word.c_str(), nullptr);
  else return (T)strtoll(word.c_str(), nullptr, 10);
}

template <class R, class... A> static void call(R (*function)(A...), std::istream &in, std::ostream &out) {
  std::tuple<A...> arguments{argument<A>(in)...};
  if constexpr (std::is_void_v<R>) std::apply(function, arguments);
  else if constexpr (std::is_same_v<R, const char *>) {
    const char *text = std::apply(function, arguments);
    out << (text ? text : "");
  } else out << std::apply(function, arguments);
}

static bool call(const std::string &name, std::istream &in, std::ostream &out) {
#define FUNCTION(function)                                                                                             \
  if (name == #function) return call(function, in, out), true;
#include "functions.inc" // FUNCTION(...) for each, written by who compiles this
  return false;
}

int main(int count, char **words) {
  if (count > 1) map_shared(atoi(words[1]));
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream in(line);
    std::string name;
    in >> name;
    if (!call(name, in, std::cout)) return 1;
    std::cout << std::endl;
  }
}
