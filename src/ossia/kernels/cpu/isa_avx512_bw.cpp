#define OSSIA_ISA avx512_bw
#define OSSIA_ISA_NAME "avx512_bw"
#include "kernels.inc"
