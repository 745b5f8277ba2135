#define OSSIA_ISA avx512_vnni
#define OSSIA_ISA_NAME "avx512_vnni"
#include "kernels.inc"
