// The functions of one instruction set. api.cpp picks one table when the library is loaded.
#pragma once

#include "sampling.h"
#include "weights.h"

#include <cstddef>

namespace ossia {

// Bytes of the stream of weights that are fetched in advance, a line at a time between the arithmetic: of many tokens
// or of MXFP4, and of dense weights that meet a few tokens only. 0: the CPU follows such a stream better by itself.
struct Fetch {
  size_t ahead, few_dense, few_direct; // `few_direct`: few_dense of tiles_direct.inc
};
extern const Fetch fetch; // of this CPU: the table is in api.cpp

struct Table {
  const char *isa;
#define KERNEL(how, result, name, parameters, arguments) result(*name) parameters;
#include "kernel_list.inc"
#undef KERNEL
};

} // namespace ossia
