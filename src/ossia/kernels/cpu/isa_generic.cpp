#define OSSIA_ISA generic
#define OSSIA_ISA_NAME "generic"
#include "kernels.inc"
