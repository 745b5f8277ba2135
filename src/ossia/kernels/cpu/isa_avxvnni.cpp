#define OSSIA_ISA avxvnni
#define OSSIA_ISA_NAME "avxvnni"
#include "kernels.inc"
