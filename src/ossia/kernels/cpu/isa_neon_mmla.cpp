#define OSSIA_ISA neon_mmla
#define OSSIA_ISA_NAME "neon_mmla"
#define OSSIA_NEON 1
#include "kernels.inc"
