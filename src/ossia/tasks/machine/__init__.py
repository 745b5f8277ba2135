"""A little machine and its programs, and the tools that run them."""
