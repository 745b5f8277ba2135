#define OSSIA_ISA neon
#define OSSIA_ISA_NAME "neon"
#define OSSIA_NEON 1
#include "kernels.inc"
