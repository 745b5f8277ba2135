#define OSSIA_ISA avx2
#define OSSIA_ISA_NAME "avx2"
#include "kernels.inc"
