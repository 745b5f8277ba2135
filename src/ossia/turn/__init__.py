"""A turn: from tokens to messages, calls and their results. Knows Harmony and tools; no engine, no
torch, no I/O.
"""
