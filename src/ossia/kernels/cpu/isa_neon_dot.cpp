#define OSSIA_ISA neon_dot
#define OSSIA_ISA_NAME "neon_dot"
#define OSSIA_NEON 1
#include "kernels.inc"
