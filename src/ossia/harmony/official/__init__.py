"""The official package's way of reading and writing, where it differs from ours."""
