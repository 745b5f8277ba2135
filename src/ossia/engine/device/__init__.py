"""What an engine does on a GPU beside its kernels: captured steps, and tokens drawn there."""
