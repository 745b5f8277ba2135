"""The compiled kernels for CPUs. One source per operation, compiled for several instruction sets, chosen at start-up."""
