#define OSSIA_ISA avx512
#define OSSIA_ISA_NAME "avx512"
#include "kernels.inc"
