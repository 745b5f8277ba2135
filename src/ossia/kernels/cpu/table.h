// The functions of one instruction set. api.cpp picks one table when the library is loaded.
#pragma once

#include "weights.h"

namespace ossia {

struct Table {
  const char *name;
  void (*rms_norm)(const float *x, const float *scale, float eps, int rows, int width, uint16_t *out);
};

} // namespace ossia
