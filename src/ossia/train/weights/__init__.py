"""What training makes of weights: adapters, merging, quantization, export."""
