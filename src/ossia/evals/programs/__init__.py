"""Answers that are programs, run in the sandbox."""
