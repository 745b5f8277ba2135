"""What bench/gpu.py measures, one file each."""
