"""GGUF files: what llama.cpp reads and writes."""
